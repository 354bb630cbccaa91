// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/libvirt_xml.h"

#include <fmt/core.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xpath.h>
#include <libxml/xpathInternals.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "block/uri.h"
#include "tools/qemu_arguments.h"

namespace cloudblk {
namespace {

constexpr char kNamespace[] = "http://libvirt.org/schemas/domain/qemu/1.0";
constexpr char kDevice[] = "cloudblk-pci";
constexpr std::string_view kOwnProperties[] = {"server", "id",       "bus",
                                               "addr",   "iothread", "bootindex"};
constexpr unsigned kMaxSlot = 0x1f;
// libvirt numbers the chassis of its own root ports from 1 on.
constexpr unsigned kFirstChassis = 128;

// Where disks go by themselves: libvirt gives its own devices the lowest slots that are free.
struct RootBus {
  const char* name;
  bool needs_port;  // a disk on it could not be unplugged
  unsigned first;
  unsigned last;
};
constexpr RootBus kPcie = {"pcie.0", true, 0x08, 0x18};
constexpr RootBus kPci = {"pci.0", false, 0x10, 0x1f};

struct Address {
  std::string bus;
  unsigned slot = 0;
};

struct FreeDoc {
  void operator()(xmlDoc* doc) const { xmlFreeDoc(doc); }
};
struct FreeContext {
  void operator()(xmlXPathContext* context) const { xmlXPathFreeContext(context); }
};
struct FreeObject {
  void operator()(xmlXPathObject* object) const { xmlXPathFreeObject(object); }
};
struct FreeText {
  void operator()(xmlChar* text) const { xmlFree(text); }
};
using Doc = std::unique_ptr<xmlDoc, FreeDoc>;

const xmlChar* Xml(const char* text) { return reinterpret_cast<const xmlChar*>(text); }

std::string Text(const xmlChar* text) { return reinterpret_cast<const char*>(text); }

Status Invalid(std::string message) { return Status(EINVAL, std::move(message)); }

// A number as libvirt writes it, in decimal or after 0x in hexadecimal.
std::optional<unsigned> Number(std::string_view text) {
  const bool hexadecimal = text.starts_with("0x");
  if (hexadecimal) text.remove_prefix(2);
  unsigned value = 0;
  const auto [rest, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, hexadecimal ? 16 : 10);
  if (error != std::errc{} || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<Address> ParseAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  const auto slot = colon == std::string::npos
                        ? std::nullopt
                        : ParseSlot(std::string_view(text).substr(colon + 1));
  if (!slot || colon == 0 || text.find('.', colon) != std::string::npos) {
    return Invalid(fmt::format("'{}' is no BUS:SLOT, as pcie.0:0x9 is one", text));
  }
  return Address{text.substr(0, colon), *slot};
}

Status CheckDisk(const LibvirtDisk& disk) {
  const auto uri = ParseServerUri(disk.server);
  if (!uri.ok()) return uri.status();
  if (uri.value().tls == disk.tls.dir.empty()) {
    return Invalid(uri.value().tls ? "a server URI with TLS needs --tls-dir DIR"
                                   : "--tls-dir is for cloudblks://, nbds:// and the like");
  }
  if (!disk.tls.dir.empty() && !disk.tls.dir.starts_with('/')) {
    return Invalid(fmt::format("'{}' has to begin with /: libvirt starts QEMU in another folder",
                               disk.tls.dir));
  }
  if (!disk.plugin.empty() && !disk.plugin.starts_with('/')) {
    return Invalid(fmt::format("'{}' has to begin with /: libvirt starts QEMU in another folder",
                               disk.plugin));
  }
  for (const std::string& property : disk.properties) {
    const std::string name = property.substr(0, property.find('='));
    if (name.empty() || name.size() == property.size() || name.find(',') != std::string::npos) {
      return Invalid(fmt::format("'{}' is no NAME=VALUE", property));
    }
    if (std::find(std::begin(kOwnProperties), std::end(kOwnProperties), name) !=
        std::end(kOwnProperties)) {
      return Invalid(fmt::format("--property {}=: there is another option for that", name));
    }
  }
  return Status::Ok();
}

// A domain, or of one that is to be written yet only its <qemu:commandline>.
class Domain {
 public:
  explicit Domain(Doc doc) : doc_(std::move(doc)), context_(xmlXPathNewContext(doc_.get())) {
    xmlXPathRegisterNs(context_.get(), Xml("qemu"), Xml(kNamespace));
  }

  // Adds the disk; the document stays as it is if that fails.
  Result<LibvirtXml> Add(const LibvirtDisk& disk, const RootBus& root_bus);

  std::vector<std::string> Find(const std::string& path) const;
  std::string Print() const;

 private:
  // The values of all arguments that follow one of that name.
  std::vector<std::string> Arguments(std::string_view name) const;
  std::set<unsigned> UsedSlots(const std::string& bus) const;
  std::set<std::string> UsedIds() const;
  Result<Address> Place(const LibvirtDisk& disk, const RootBus& root_bus) const;
  Result<std::string> Name(const LibvirtDisk& disk) const;
  Status CheckVolume(const std::string& server) const;
  Status CheckBootindex(uint32_t bootindex) const;
  Status CheckIothread(uint32_t iothread) const;
  std::set<unsigned> BootIndices() const;
  bool HasPlugin() const;
  void Append(const char* name, const std::string& value);
  void DeclareIothreads(uint32_t count);
  Status AddCredentials(const TlsOptions& tls, const std::string& id);

  Doc doc_;
  std::unique_ptr<xmlXPathContext, FreeContext> context_;
};

std::vector<std::string> Domain::Find(const std::string& path) const {
  std::vector<std::string> found;
  const std::unique_ptr<xmlXPathObject, FreeObject> object(
      xmlXPathEvalExpression(Xml(path.c_str()), context_.get()));
  if (object == nullptr || object->nodesetval == nullptr) return found;
  for (int i = 0; i < object->nodesetval->nodeNr; ++i) {
    const std::unique_ptr<xmlChar, FreeText> text(
        xmlNodeGetContent(object->nodesetval->nodeTab[i]));
    if (text != nullptr) found.push_back(Text(text.get()));
  }
  return found;
}

std::vector<std::string> Domain::Arguments(std::string_view name) const {
  const std::vector<std::string> words = Find("//qemu:commandline/qemu:arg/@value");
  std::vector<std::string> found;
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == name || words[i] == fmt::format("-{}", name)) found.push_back(words[i + 1]);
  }
  return found;
}

std::set<unsigned> Domain::UsedSlots(const std::string& bus) const {
  std::set<unsigned> used;
  const size_t dot = bus.rfind('.');
  const auto number = Number(std::string_view(bus).substr(dot == std::string::npos ? 0 : dot + 1));
  if (number) {
    const std::string addresses = "/domain/devices//address[@type='pci']";
    const std::vector<std::string> buses = Find(addresses + "[@slot]/@bus");
    const std::vector<std::string> slots = Find(addresses + "[@bus]/@slot");
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto slot = Number(slots[i]);
      if (slot && Number(buses[i]) == number) used.insert(*slot);
    }
  }
  for (const std::string& argument : Arguments("-device")) {
    auto device = ParseDevice(argument);
    const auto slot = ParseSlot(device["addr"]);
    if (slot && device["bus"] == bus) used.insert(*slot);
  }
  return used;
}

std::set<std::string> Domain::UsedIds() const {
  std::set<std::string> used;
  for (const std::string& argument : Arguments("-device")) used.insert(ParseDevice(argument)["id"]);
  return used;
}

Result<Address> Domain::Place(const LibvirtDisk& disk, const RootBus& root_bus) const {
  if (!disk.address.empty()) {
    auto address = ParseAddress(disk.address);
    if (address.ok() && UsedSlots(address->bus).contains(address->slot)) {
      return Status(EEXIST, fmt::format("the domain has something at {}", disk.address));
    }
    return address;
  }
  const std::set<unsigned> used = UsedSlots(root_bus.name);
  for (unsigned slot = root_bus.first; slot <= root_bus.last; ++slot) {
    if (!used.contains(slot)) return Address{root_bus.name, slot};
  }
  return Status(EEXIST, fmt::format("slots {:#x} to {:#x} of {} are taken: say --address BUS:SLOT",
                                    root_bus.first, root_bus.last, root_bus.name));
}

Result<std::string> Domain::Name(const LibvirtDisk& disk) const {
  const std::set<std::string> used = UsedIds();
  if (!disk.id.empty()) {
    if (used.contains(disk.id)) {
      return Status(EEXIST, fmt::format("the domain has a device with the id {}", disk.id));
    }
    return disk.id;
  }
  for (unsigned i = 0;; ++i) {
    std::string name = fmt::format("cloudblk{}", i);
    if (!used.contains(name)) return name;
  }
}

Status Domain::CheckVolume(const std::string& server) const {
  for (const std::string& argument : Arguments("-device")) {
    auto device = ParseDevice(argument);
    if (device["driver"] == kDevice && device["server"] == server) {
      return Status(EEXIST, fmt::format("the domain has {} already, as {}", server, device["id"]));
    }
  }
  return Status::Ok();
}

// Those that QEMU will be given. libvirt makes them of <boot dev=.../> where there are such
// devices: a number for the first of each kind, in the order of these elements.
std::set<unsigned> Domain::BootIndices() const {
  std::set<unsigned> used;
  for (const std::string& order : Find("/domain/devices//boot/@order")) {
    const auto number = Number(order);
    if (number) used.insert(*number);
  }
  const std::pair<const char*, const char*> kinds[] = {
      {"hd", "/domain/devices/disk[not(@device) or @device='disk' or @device='lun']"},
      {"cdrom", "/domain/devices/disk[@device='cdrom']"},
      {"fd", "/domain/devices/disk[@device='floppy']"},
      {"network", "/domain/devices/interface"}};
  unsigned index = 0;
  for (const std::string& kind : Find("/domain/os/boot/@dev")) {
    ++index;
    for (const auto& [name, path] : kinds) {
      if (kind == name && !Find(path).empty()) used.insert(index);
    }
  }
  for (const std::string& argument : Arguments("-device")) {
    const auto number = Number(ParseDevice(argument)["bootindex"]);
    if (number) used.insert(*number);
  }
  return used;
}

Status Domain::CheckBootindex(uint32_t bootindex) const {
  const std::set<unsigned> used = BootIndices();
  if (bootindex == 0 || !used.contains(bootindex)) return Status::Ok();
  unsigned other = 1;
  while (used.contains(other)) ++other;
  return Status(EEXIST, fmt::format("the domain boots something else as number {}: take "
                                    "--bootindex {}, or change its <boot> elements first",
                                    bootindex, other));
}

Status Domain::CheckIothread(uint32_t iothread) const {
  const std::vector<std::string> count = Find("/domain/iothreads");
  if (iothread == 0 || count.empty()) return Status::Ok();
  const std::vector<std::string> named = Find("/domain/iothreadids/iothread/@id");
  const bool found = std::any_of(named.begin(), named.end(),
                                 [&](const std::string& id) { return Number(id) == iothread; });
  if (found || (named.empty() && iothread <= Number(count[0]).value_or(0))) return Status::Ok();
  return Invalid(
      fmt::format("the domain has no IOThread {}: virsh iothreadadd DOMAIN {} --config "
                  "makes it",
                  iothread, iothread));
}

bool Domain::HasPlugin() const {
  for (const std::string& argument : Arguments("-plugin")) {
    const std::string file = argument.substr(0, argument.find(','));
    if (file.substr(file.rfind('/') + 1) == "cloudblk.so") return true;
  }
  return false;
}

// Two arguments at the end of the command line, which is made if there is none.
void Domain::Append(const char* name, const std::string& value) {
  xmlNode* const root = xmlDocGetRootElement(doc_.get());
  xmlNs* space = xmlSearchNsByHref(doc_.get(), root, Xml(kNamespace));
  if (space == nullptr) space = xmlNewNs(root, Xml(kNamespace), Xml("qemu"));
  xmlNode* line = root;
  if (Text(root->name) != "commandline") {
    line = root->children;
    while (line != nullptr && (line->ns == nullptr || Text(line->ns->href) != kNamespace ||
                               Text(line->name) != "commandline")) {
      line = line->next;
    }
    if (line == nullptr) line = xmlNewChild(root, space, Xml("commandline"), nullptr);
  } else if (root->ns == nullptr) {
    xmlSetNs(root, space);
  }
  for (const char* const word : {name, value.c_str()}) {
    xmlNode* const argument = xmlNewNode(space, Xml("arg"));
    xmlNewProp(argument, Xml("value"), Xml(word));
    // Arguments come before <qemu:env>.
    xmlNode* last = line->last;
    while (last != nullptr && Text(last->name) != "arg") last = last->prev;
    if (last != nullptr) {
      xmlAddNextSibling(last, argument);
    } else if (line->children != nullptr) {
      xmlAddPrevSibling(line->children, argument);
    } else {
      xmlAddChild(line, argument);
    }
  }
}

void Domain::DeclareIothreads(uint32_t count) {
  if (!Find("/domain/iothreads").empty()) return;
  xmlNode* const root = xmlDocGetRootElement(doc_.get());
  if (Text(root->name) == "domain") {
    xmlNewTextChild(root, nullptr, Xml("iothreads"), Xml(std::to_string(count).c_str()));
  }
}

// QEMU's object with the credentials.
Status Domain::AddCredentials(const TlsOptions& tls, const std::string& id) {
  const Result<TlsSettings::Kind> kind = KindOfTlsFolder(tls.dir);
  if (!kind.ok()) return kind.status();
  const bool psk = kind.value() == TlsSettings::Kind::kPsk;
  std::vector<std::pair<std::string, std::string>> properties = {
      {"id", id}, {"endpoint", "client"}, {"dir", tls.dir}};
  if (psk && !tls.username.empty()) properties.emplace_back("username", tls.username);
  Append("-object", FormatDevice(psk ? "tls-creds-psk" : "tls-creds-x509", properties));
  return Status::Ok();
}

Result<LibvirtXml> Domain::Add(const LibvirtDisk& disk, const RootBus& root_bus) {
  for (const Status& checked :
       {CheckVolume(disk.server), CheckBootindex(disk.bootindex), CheckIothread(disk.iothread)}) {
    if (!checked.ok()) return checked;
  }
  auto place = Place(disk, root_bus);
  if (!place.ok()) return place.status();
  auto name = Name(disk);
  if (!name.ok()) return name.status();

  if (!disk.plugin.empty() && !HasPlugin()) Append("-plugin", disk.plugin);
  Address address = *place;
  if (address.bus == kPcie.name) {
    const std::string port = *name + "-port";
    Append("-device", FormatDevice("pcie-root-port",
                                   {{"id", port},
                                    {"bus", address.bus},
                                    {"addr", fmt::format("{:#04x}", address.slot)},
                                    {"chassis", std::to_string(kFirstChassis + address.slot)}}));
    address = {port, 0};
  }
  std::vector<std::pair<std::string, std::string>> properties = {
      {"server", disk.server},
      {"id", *name},
      {"bus", address.bus},
      {"addr", fmt::format("{:#04x}", address.slot)}};
  if (disk.iothread != 0) {
    DeclareIothreads(disk.iothread);
    properties.emplace_back("iothread", fmt::format("iothread{}", disk.iothread));
  }
  if (disk.bootindex != 0) properties.emplace_back("bootindex", std::to_string(disk.bootindex));
  if (!disk.tls.dir.empty()) {
    const Status added = AddCredentials(disk.tls, *name + "-tls");
    if (!added.ok()) return added;
    properties.emplace_back("tls-creds", *name + "-tls");
    if (!disk.tls.hostname.empty()) properties.emplace_back("tls-hostname", disk.tls.hostname);
  }
  for (const std::string& property : disk.properties) {
    const size_t equals = property.find('=');
    properties.emplace_back(property.substr(0, equals), property.substr(equals + 1));
  }
  Append("-device", FormatDevice(kDevice, properties));
  return LibvirtXml{Print(), *name, place->bus, place->slot};
}

std::string Domain::Print() const {
  xmlBuffer* const buffer = xmlBufferCreate();
  xmlNodeDump(buffer, doc_.get(), xmlDocGetRootElement(doc_.get()), 0, 1);
  std::string text = Text(xmlBufferContent(buffer)) + "\n";
  xmlBufferFree(buffer);
  return text;
}

}  // namespace

Result<LibvirtXml> MakeCommandline(const LibvirtDisk& disk) {
  const Status checked = CheckDisk(disk);
  if (!checked.ok()) return checked;
  Doc doc(xmlNewDoc(Xml("1.0")));
  xmlDocSetRootElement(doc.get(), xmlNewNode(nullptr, Xml("commandline")));
  auto made = Domain(std::move(doc)).Add(disk, kPcie);
  if (made.ok() && disk.iothread != 0) {
    made->xml =
        fmt::format("<!-- The domain also needs <iothreads>{}</iothreads>, or more. -->\n{}",
                    disk.iothread, made->xml);
  }
  return made;
}

Result<LibvirtXml> AddToDomain(const std::string& domain, const LibvirtDisk& disk) {
  const Status checked = CheckDisk(disk);
  if (!checked.ok()) return checked;
  Doc doc(xmlReadMemory(
      domain.data(), static_cast<int>(domain.size()), nullptr, nullptr,
      XML_PARSE_NONET | XML_PARSE_NOBLANKS | XML_PARSE_NOERROR | XML_PARSE_NOWARNING));
  if (doc == nullptr || Text(xmlDocGetRootElement(doc.get())->name) != "domain") {
    return Invalid("that is not the XML of a domain");
  }
  Domain parsed(std::move(doc));
  const std::vector<std::string> machines = parsed.Find("/domain/os/type/@machine");
  const std::string machine = machines.empty() ? "" : machines[0];
  if (machine.find("q35") != std::string::npos || machine.starts_with("virt")) {
    return parsed.Add(disk, kPcie);
  }
  if (machine.starts_with("pc") || machine.find("i440fx") != std::string::npos ||
      !disk.address.empty()) {
    return parsed.Add(disk, kPci);
  }
  return Invalid(fmt::format(
      "where disks go in a machine '{}' is not known: say --address BUS:SLOT", machine));
}

}  // namespace cloudblk
