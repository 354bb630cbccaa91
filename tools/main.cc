// SPDX-License-Identifier: GPL-2.0-or-later
//
// cloudblk: look at, copy, resize and measure volumes from the command line.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>

#include "base/decimal.h"
#include "tools/commands.h"
#include "tools/interrupt.h"

namespace cloudblk {
namespace {

constexpr int kUsageError = 2;
// Of bench: each request in flight has a buffer.
constexpr uint32_t kMaxDepth = 65536;
constexpr uint32_t kMaxServerTimeout = 86'400;  // seconds

// Bytes: 512, 4k, 1M, ... The library alone would take 010k for octal, and -1 or too many digits
// for the largest number there is.
struct SizeValue : CLI::AsSizeValue {
  SizeValue() : CLI::AsSizeValue(false) {
    func_ = [parse = func_](std::string& text) -> std::string {
      const std::string given = text;
      const char* const end = given.data() + given.size();
      uint64_t number = 0;
      const auto [unit, error] = std::from_chars(given.data(), end, number);
      if (error == std::errc::result_out_of_range) return given + " is too large";
      if (error != std::errc{} || std::any_of(unit, end, isdigit)) return given + " is not a size";
      text = std::to_string(number) + std::string(unit, end);
      std::string wrong = parse(text);
      if (!wrong.empty()) return wrong;
      std::from_chars(text.data(), text.data() + text.size(), number);
      return number > uint64_t{INT64_MAX} ? given + " is too large" : std::string();
    };
  }
};

const CLI::Validator kDecimal(MakeDecimal, "");

void AddUri(CLI::App* command, Options* o) {
  command
      ->add_option("server", o->client.server,
                   "cloudblk://HOST[:PORT]/VOLUME, nbd://HOST[:PORT]/EXPORT and the like")
      ->required();
}

void AddTls(CLI::App* command, Options* o) {
  command
      ->add_option("--tls-dir", o->client.tls.dir,
                   "Credentials for cloudblks:// and nbds://: ca-cert.pem, client-cert.pem and "
                   "client-key.pem, or keys.psk")
      ->type_name("DIR");
  command
      ->add_option("--tls-username", o->client.tls.username, "Whose key of keys.psk (default qemu)")
      ->type_name("NAME");
  command
      ->add_option("--tls-hostname", o->client.tls.hostname,
                   "Name in the server's certificate (default: the host of the server)")
      ->type_name("NAME");
}

// What every command has that opens a volume.
void AddServer(CLI::App* command, Options* o) {
  AddUri(command, o);
  command
      ->add_option("--timeout", o->client.open_timeout_ms,
                   "Give up opening after so many ms (default 30000)")
      ->transform(kDecimal);
  command
      ->add_option("--server-timeout", o->client.server_timeout,
                   "Leave a server that is silent for so many s (default 8)")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{0}, kMaxServerTimeout));
  AddTls(command, o);
}

CLI::App* AddCommand(CLI::App* app, Options* o, const char* name, const char* help) {
  CLI::App* command = app->add_subcommand(name, help);
  AddServer(command, o);
  return command;
}

// Where from comes first.
CLI::App* AddImport(CLI::App* app, Options* o) {
  CLI::App* command =
      app->add_subcommand("import", "Copy a disk image to the front of a volume, and flush");
  command->add_option("file", o->file, "The image")->required();
  command->add_option("--format", o->format, "Of the image, as qemu-img knows it (default raw)");
  AddServer(command, o);
  return command;
}

void AddActive(CLI::App* command, Options* o) {
  command->add_flag("--share-rw", o->client.share_rw,
                    "Allow others that say so too at the same time");
  command->add_flag("--takeover", o->client.takeover, "Fence the present holder of the volume");
  command->add_flag("--payload-crc", o->client.payload_crc, "Checksum the data on the wire");
}

void AddExtent(CLI::App* command, Options* o) {
  const SizeValue size;
  command->add_option("--offset", o->offset, "First byte (512, 4k, 1M, ...)")->transform(size);
  command->add_option("--length", o->length, "Bytes; the rest if not given")->transform(size);
}

void AddBench(CLI::App* command, Options* o) {
  const SizeValue size;
  BenchOptions* b = &o->bench;
  command
      ->add_option("--pattern", b->pattern,
                   "read, write, rw, randread, randwrite or randrw; writes destroy the content")
      ->capture_default_str();
  command->add_option("--size", b->size, "Bytes of a request")
      ->transform(size)
      ->capture_default_str();
  command->add_option("--depth", b->depth, "Requests in flight")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{1}, kMaxDepth))
      ->capture_default_str();
  command->add_option("--seconds", b->seconds, "How long")->capture_default_str();
  command->add_option("--count", b->count, "How many requests, instead of --seconds")
      ->transform(kDecimal)
      ->check(CLI::Range(uint64_t{1}, uint64_t{INT64_MAX}));
  command->add_option("--range", b->range, "Only the first so many bytes")->transform(size);
  command->add_option("--seed", b->seed, "Of the offsets and the content")->transform(kDecimal);
  command->add_flag("--verify", b->verify, "Check all content that this run wrote");
}

void AddLibvirtXml(CLI::App* app, Options* o) {
  CLI::App* command = app->add_subcommand(
      "libvirt-xml", "Print libvirt's XML for a disk, or add the disk to a domain of libvirt");
  LibvirtDisk* d = &o->libvirt;
  AddUri(command, o);
  AddTls(command, o);
  command->add_option("--domain", o->domain, "Add the disk to this domain's definition");
  command->add_flag("--print", o->print, "Print the domain with the disk and leave it as it is");
  command->add_option("--connect", o->connect, "libvirt's URI, as virsh takes it");
  command->add_option("--plugin", d->plugin,
                      "The plugin's file (default /usr/lib/cloudblk/cloudblk.so)");
  command->add_flag("--compiled-in", o->compiled_in, "The domain's QEMU has the device already");
  command->add_option("--iothread", d->iothread, "Number of the domain's IOThread that serves it")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{1}, uint32_t{INT32_MAX}));
  command->add_option("--bootindex", d->bootindex, "Its place in the boot order, from 1 on")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{1}, uint32_t{INT32_MAX}));
  command->add_option("--address", d->address,
                      "BUS:SLOT, as pcie.0:0x9 (default: the first that is free)");
  command->add_option("--id", d->id,
                      "QEMU's name for the disk (default cloudblk0, cloudblk1, ...)");
  command->add_option("--property", d->properties, "NAME=VALUE, another property of the device")
      ->allow_extra_args(false)
      ->take_all();
}

// So that who is refused because of it sees what has the volume.
std::string ClientName(const std::string& command) {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "unknown host");
  return fmt::format("{} cloudblk {}, pid {}", host, command, getpid());
}

// A full disk shows only now.
int FlushOutput() {
  errno = 0;
  if (fflush(stdout) == 0 && std::cout.flush()) return 0;
  // What failed may have been an earlier write, whose reason is gone.
  const int error = errno != 0 ? errno : EIO;
  return Fail(
      Status(error, fmt::format("cannot write to the standard output: {}", DescribeErrno(error))));
}

int Main(int argc, char** argv) {
  // A reader of our stdout that went away is an error of write(), not the end of a session.
  signal(SIGPIPE, SIG_IGN);
  Options o;
  CLI::App app("cloudblk: look at, copy, resize and measure volumes");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", o.json, "Print the result as JSON");
  app.set_version_flag("--version", std::string("cloudblk " CLOUDBLK_VERSION));
  app.footer("Exit status: 0, 1 if it failed, 2 if the command line was not understood.");
  AddCommand(&app, &o, "info", "Show what a volume is");
  AddCommand(&app, &o, "ping", "Connect, open to observe, and tell how long that took")
      ->add_option("--count", o.pings, "How often")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{1}, UINT32_MAX))
      ->capture_default_str();
  CLI::App* read = AddCommand(&app, &o, "read", "Copy from a volume to a file or stdout");
  read->add_option("file", o.file, "Where to; - is stdout");
  CLI::App* write =
      AddCommand(&app, &o, "write", "Copy from a file or stdin to a volume, and flush");
  write->add_option("file", o.file, "Where from; - is stdin");
  write->add_flag("--no-sparse", o.no_sparse, "Let zeros and holes take up room in the volume");
  CLI::App* map = AddCommand(&app, &o, "map", "Show where a volume has data");
  CLI::App* import = AddImport(&app, &o);
  CLI::App* exporting = AddCommand(&app, &o, "export", "Copy a whole volume to a disk image");
  exporting->add_option("file", o.file, "The image")->required();
  exporting->add_option("--format", o.format, "Of the image, as qemu-img knows it (default raw)");
  CLI::App* discard = AddCommand(&app, &o, "discard", "Let the content of a range go");
  CLI::App* flush = AddCommand(&app, &o, "flush", "Make completed writes durable");
  CLI::App* resize =
      AddCommand(&app, &o, "resize", "Give a volume another size, also while it is used");
  resize->add_option("size", o.size, "Bytes (512, 4k, 1M, ...)")
      ->required()
      ->transform(SizeValue());
  resize->add_flag("--force", o.force, "Allow a smaller size, which cuts data off");
  CLI::App* release = AddCommand(
      &app, &o, "release", "End the reservation of a volume for a machine that was saved or moved");
  release->add_flag("--force", o.force, "Yes, nobody is to go on with that machine's state");
  release->add_flag("--share-rw", o.client.share_rw, "Leave alone who shares the volume");
  AddCommand(&app, &o, "nbd-check", "Tell what an NBD server promises, and try it")
      ->add_flag("--write", o.write, "Also write a block's own content back");
  AddLibvirtXml(&app, &o);
  CLI::App* bench = AddCommand(&app, &o, "bench", "Measure IOPS and latency");
  for (CLI::App* command : {read, write, import, exporting, discard, flush, bench}) {
    AddActive(command, &o);
  }
  for (CLI::App* command : {read, write, map, discard}) AddExtent(command, &o);
  AddBench(bench, &o);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    app.exit(success);
    return FlushOutput();
  } catch (const CLI::ParseError& error) {
    const std::vector<std::string> unknown = app.remaining();
    if (app.get_subcommands().empty() && !unknown.empty()) {
      fmt::print(stderr, "cloudblk: there is no command '{}'; see --help\n", unknown.front());
    } else {
      fmt::print(stderr, "cloudblk: {}; see --help\n", error.what());
    }
    return kUsageError;
  }
  CLI::App* command = app.get_subcommands().front();
  const std::string name = command->get_name();
  o.client.client_name = ClientName(name);
  o.client.read_only = command == read || command == exporting || command == map ||
                       (command == bench && o.bench.pattern.ends_with("read"));
  if (command == discard && o.length == UINT64_MAX) {
    return Fail(Status(EINVAL, "discard needs --length: it says how much to let go"));
  }
  if (command == release && !o.force) {
    return Fail(Status(EINVAL, "release needs --force: the saved machine cannot be resumed then"));
  }
  o.client.end_reservation = command == release;
  const int result = RunCommand(name, o);
  const int flushed = FlushOutput();
  if (result != 0 && InterruptSignal() != 0) {
    // So that whoever waits for this process sees that it was the signal.
    signal(InterruptSignal(), SIG_DFL);
    raise(InterruptSignal());
  }
  return result != 0 ? result : flushed;
}

// A socket must not get the descriptor of a standard file that is closed: the output would go to
// the server. Reading from the input and writing to the output still fails, so that nobody who has
// closed them is told that all was copied.
void OpenStandardFiles() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
  }
}

}  // namespace
}  // namespace cloudblk

int main(int argc, char** argv) {
  cloudblk::OpenStandardFiles();
  try {
    return cloudblk::Main(argc, argv);
  } catch (const std::exception& error) {
    // No memory, or no room where the output goes.
    fprintf(stderr, "cloudblk: %s\n", error.what());
    return 1;
  }
}
