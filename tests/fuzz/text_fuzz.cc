// SPDX-License-Identifier: GPL-2.0-or-later
//
// Any text where a person, a file or a peer gives one: the configuration with its rules, addresses,
// URIs of servers and of backends, sizes and numbers, records of owners, UUIDs, and what is printed
// of others. What is accepted says the same when it is written out and read again.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/decimal.h"
#include "base/socket.h"
#include "base/text.h"
#include "base/uuid.h"
#include "block/uri.h"
#include "proxy/backend_uri.h"
#include "proxy/options.h"
#include "proxy/owner_record.h"
#include "tests/fuzz/check.h"

namespace cloudblk::testing {
namespace {

// An error is told in one line, with something in it.
void CheckError(const Status& status) { Check(status.ok() || !status.message().empty()); }

template <typename T>
void CheckError(const Result<T>& result) {
  if (!result.ok()) Check(!result.status().message().empty());
}

void CheckEndpoint(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kTcp && endpoint.host.empty()) return;
  Result<Endpoint> again = ParseEndpoint(endpoint.ToString());
  Check(again.ok() && *again == endpoint);
}

void Config(const std::string& text) {
  static const int fd = memfd_create("config", 0);
  Check(ftruncate(fd, 0) == 0);
  Check(pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  proxy::Options options;
  const Status read = proxy::ReadConfig("/proc/self/fd/" + std::to_string(fd), &options);
  CheckError(read);
  if (!read.ok()) return;
  Check(options.threads >= 1 && options.threads <= proxy::kMaxThreads);
  Check(options.lease_s >= 1 && options.lease_s <= proxy::kMaxLeaseS);
  Check(options.max_connections >= 1 && options.max_connections <= proxy::kMostConnections);
  Check(options.max_memory >= proxy::kLeastMemory && proxy::IsLogLevel(options.log_level));
  for (const Endpoint& endpoint : options.listen) CheckEndpoint(endpoint);
  for (const Endpoint& endpoint : options.admin) Check(endpoint.kind == Endpoint::Kind::kUnix);
  for (const proxy::AccessRule& rule : options.access) {
    const int who = rule.anyone + rule.uid.has_value() + rule.gid.has_value() +
                    rule.certificate.has_value() + rule.psk.has_value();
    Check(who == 1 && !rule.volumes.empty() && rule.rights != proxy::Rights());
  }
  const Status whole = proxy::CheckOptions(options);
  CheckError(whole);
  if (whole.ok()) {
    for (const auto& volume : options.volumes) {
      Check(IsText(volume.name) && Printable(volume.name) == volume.name);
    }
  }
  // Nobody gets from rules what no rule names him for.
  const proxy::AccessRules rules(options.access);
  const bool anyone = std::ranges::any_of(options.access, &proxy::AccessRule::anyone);
  const proxy::ClientIdentity client{.uid = 4000000001, .gids = {4000000002}};
  const bool named = std::ranges::any_of(options.access, [](const proxy::AccessRule& rule) {
    return rule.uid == 4000000001 || rule.gid == 4000000002;
  });
  if (!rules.empty() && !anyone && !named) {
    Check(rules.Of(client, "disk") == proxy::Rights());
  }
}

void Server(const std::string& text) {
  Result<ServerUri> uri = ParseServerUri(text);
  CheckError(uri);
  if (!uri.ok()) return;
  Check(!uri->endpoints.empty() && IsText(uri->volume) && uri->volume.size() <= 4096);
  Check(uri->protocol == Protocol::kNbd || (!uri->volume.empty() && uri->volume.size() <= 255));
  for (const Endpoint& endpoint : uri->endpoints) CheckEndpoint(endpoint);
}

void Backend(const std::string& text) {
  Result<proxy::BackendUri> uri = proxy::BackendUri::Parse(text);
  CheckError(uri);
  if (!uri.ok()) return;
  Check(uri->path().find('\0') == std::string::npos || text.find('\0') != std::string::npos);
  Result<std::optional<uint64_t>> size = uri->TakeSize("size");
  CheckError(size);
  Result<uint32_t> block = uri->TakeBlockSize(512);
  Check(!block.ok() || (*block >= 512 && *block <= 4096 && (*block & (*block - 1)) == 0));
  CheckError(uri->TakeSwitch("create", false));
  (void)uri->Take("conf");
  Check(!uri->Take("conf"));
  CheckError(uri->CheckAllTaken());
}

void Address(const std::string& text) {
  for (const Result<Endpoint>& endpoint :
       {ParseEndpoint(text), proxy::ParseAdmin(text), ParseHostPort(text, 9810)}) {
    CheckError(endpoint);
    if (endpoint.ok()) CheckEndpoint(endpoint.value());
  }
}

void Numbers(const std::string& text) {
  const std::optional<uint64_t> size = proxy::ParseSize(text);
  if (size) Check(proxy::ParseSize(std::to_string(*size)) == size);
  Result<uint64_t> memory = proxy::ParseMaxMemory(text);
  Check(!memory.ok() || (size && *memory == *size));
  std::string decimal = text;
  if (MakeDecimal(decimal).empty()) {
    Check(!decimal.empty() && (decimal == "0" || decimal[0] != '0') &&
          decimal.find_first_not_of("0123456789") == std::string::npos);
  }
  Result<proxy::VolumeOptions> volume = proxy::ParseVolume(text);
  CheckError(volume);
  if (volume.ok()) Check(volume->name + "=" + volume->backend == text);
  const std::optional<Uuid> uuid = ParseUuid(text);
  if (uuid) Check(ParseUuid(ToString(*uuid)) == uuid);
}

void Record(const std::string& text) {
  Result<proxy::OwnerRecord> record = proxy::ParseOwnerRecord(text);
  CheckError(record);
  if (!record.ok()) return;
  Result<proxy::OwnerRecord> again = proxy::ParseOwnerRecord(proxy::Format(*record));
  // Of a name that cannot be printed as it is, what can be is kept.
  for (auto& holder : record->holders) holder.client_name = proxy::KeptName(holder.client_name);
  Check(again.ok() && *again == *record);
}

void Texts(const std::string& text) {
  const std::string printable = Printable(text);
  Check(IsText(printable) && Printable(printable) == printable);
  Check(std::ranges::none_of(printable, [](unsigned char c) { return c < ' ' || c == 0x7f; }));
  for (const size_t most : {size_t{0}, size_t{1}, size_t{5}, text.size()}) {
    const std::string_view cut = CutText(text, most);
    Check(cut.size() <= most && text.starts_with(cut) && (!IsText(text) || IsText(cut)));
  }
  Result<std::string> decoded = PercentDecode(text);
  if (decoded.ok()) Check(decoded->size() <= text.size());
}

}  // namespace
}  // namespace cloudblk::testing

// The first byte chooses what reads the rest.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cloudblk::testing;
  constexpr void (*kReaders[])(const std::string&) = {Config,  Server, Backend, Address,
                                                      Numbers, Record, Texts};
  if (size == 0) return 0;
  kReaders[data[0] % 7](std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}
