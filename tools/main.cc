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
#include <nlohmann/json.hpp>

#include "base/decimal.h"
#include "tools/bench.h"
#include "tools/client.h"
#include "tools/copy.h"
#include "tools/interrupt.h"
#include "tools/nbd_check.h"
#include "tools/progress.h"

namespace cloudblk {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kUsageError = 2;
// Of bench: each request in flight has a buffer.
constexpr uint32_t kMaxDepth = 65536;
constexpr uint32_t kMaxServerTimeout = 86'400;  // seconds

struct Options {
  ClientOptions client;
  uint64_t offset = 0;
  uint64_t length = UINT64_MAX;
  uint64_t size = 0;
  bool force = false;
  bool no_sparse = false;
  bool write = false;
  std::string file = "-";
  uint32_t pings = 4;
  BenchOptions bench;
  bool json = false;
};

std::string Hex(const uint8_t (&bytes)[16]) {
  std::string out;
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += fmt::format("{:02x}", bytes[i]);
  }
  return out;
}

void Print(const Options& options, const Json& json, const std::string& text) {
  if (options.json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}", text);
  }
}

int Fail(const Status& status) {
  // An interrupt makes everything fail, so that it is the reason.
  const bool interrupted = InterruptSignal() != 0;
  // fmt::print would throw where stderr is a terminal that went away.
  fprintf(stderr, "cloudblk: %s\n", interrupted ? "interrupted" : status.message().c_str());
  return 1;
}

int FailErrno(int result, const char* what) {
  return Fail(Status(-result, fmt::format("{}: {}", what, DescribeErrno(-result))));
}

int Info(Client* client, const Options& options) {
  const CloudblkInfo info = client->info();
  const Json json = {
      {"protocol", info.protocol},
      {"size", info.size_bytes},
      {"logical-block-size", info.logical_block_size},
      {"physical-block-size", info.physical_block_size},
      {"optimal-io-size", info.optimal_io_size},
      {"discard-granularity", info.discard_granularity},
      {"max-discard", info.max_discard_bytes},
      {"max-write-zeroes", info.max_write_zeroes_bytes},
      {"read-only", info.read_only},
      {"write-cache", info.write_cache},
      {"rotational", info.rotational},
      {"uuid", Hex(info.volume_uuid)},
      {"generation", info.generation},
      {"promises-flush", info.flush},
      {"promises-several-connections", info.several_channels},
      {"promises-fencing", info.fences},
      {"promises-to-tell-losses", info.tells_losses},
      {"promises-one-holder", info.moves},
  };
  std::string text;
  for (const auto& [key, value] : json.items()) {
    text +=
        fmt::format("{:<28} {}", key, value.is_string() ? value.get<std::string>() : value.dump());
    text += key == "size" ? fmt::format(" ({})\n", HumanBytes(static_cast<double>(info.size_bytes)))
                          : "\n";
  }
  Print(options, json, text);
  return 0;
}

int Ping(const Options& options) {
  Histogram times;
  for (uint32_t i = 0; i < options.pings; ++i) {
    const auto start = std::chrono::steady_clock::now();
    auto client = Client::Open(options.client);
    if (!client.ok()) return Fail(client.status());
    const auto took = std::chrono::steady_clock::now() - start;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(took).count();
    times.Add(static_cast<uint64_t>(ns));
    if (!options.json) {
      fmt::print("{} answered in {:.3f} ms\n", options.client.server,
                 static_cast<double>(ns) / 1e6);
    }
  }
  const Json json = {{"count", options.pings},
                     {"median-ms", static_cast<double>(times.Percentile(50)) / 1e6},
                     {"max-ms", static_cast<double>(times.max()) / 1e6}};
  if (options.json) Print(options, json, "");
  return 0;
}

int Read(Client* client, Options options) {
  const uint64_t size = client->info().size_bytes;
  if (options.length == UINT64_MAX) options.length = size - std::min(size, options.offset);
  auto done = CopyOut(client, options.offset, options.length, options.file);
  if (!done.ok()) return Fail(done.status());
  // What is copied to stdout has it for itself.
  if (options.file != "-") {
    Print(options, {{"bytes", *done}}, fmt::format("{} bytes read\n", *done));
  }
  return 0;
}

int Write(Client* client, const Options& options) {
  auto done = CopyIn(client, options.offset, options.length, options.file, !options.no_sparse);
  if (!done.ok()) return Fail(done.status());
  Print(options, {{"bytes", *done}}, fmt::format("{} bytes written and flushed\n", *done));
  return 0;
}

Status CheckDiscard(const CloudblkInfo& info, uint64_t offset, uint64_t length) {
  if (info.read_only) return Status(EROFS, "the volume is read-only");
  if (offset > info.size_bytes || length > info.size_bytes - offset) {
    return Status(EINVAL, fmt::format("offset {} and length {} go beyond the end of the volume "
                                      "({} bytes)",
                                      offset, length, info.size_bytes));
  }
  if (length == 0 || (offset | length) % info.logical_block_size != 0) {
    return Status(EINVAL, fmt::format("offset and length must be multiples of the volume's block "
                                      "size of {} bytes, and length not 0",
                                      info.logical_block_size));
  }
  return Status::Ok();
}

int Discard(Client* client, const Options& options) {
  Status status = CheckDiscard(client->info(), options.offset, options.length);
  if (status.ok()) status = client->Activate();
  if (!status.ok()) return Fail(status);
  const int result = client->Discard(options.offset, options.length);
  if (result < 0) return FailErrno(result, "the discard failed");
  Print(options, {{"bytes", options.length}}, fmt::format("{} bytes discarded\n", options.length));
  return 0;
}

int Flush(Client* client, const Options& options) {
  const Status status = client->Activate();
  if (!status.ok()) return Fail(status);
  const int result = client->Flush();
  if (result < 0) return FailErrno(result, "the flush failed");
  Print(options, {{"flushed", true}}, "flushed\n");
  return 0;
}

int Resize(Client* client, const Options& options) {
  const uint64_t before = client->info().size_bytes;
  const Status resized = client->Resize(options.size, options.force);
  if (!resized.ok()) return Fail(resized);
  Print(options, {{"size", options.size}, {"size-before", before}},
        fmt::format("{} bytes, was {}\n", options.size, before));
  return 0;
}

int NbdCheck(const Options& options) {
  auto findings =
      CheckNbdServer(options.client.server, options.write, options.client.open_timeout_ms);
  if (!findings.ok()) return Fail(findings.status());
  Json json;
  std::string text = fmt::format("{:<20} {:<30} {}\n", "", "promised", "tried");
  bool broken = false;
  for (const NbdFinding& finding : *findings) {
    json[finding.what] = {
        {"promised", finding.promised}, {"tried", finding.tried}, {"broken", finding.broken}};
    text += fmt::format("{:<20} {:<30} {}{}\n", finding.what, finding.promised, finding.tried,
                        finding.broken ? "  <- not as promised" : "");
    broken = broken || finding.broken;
  }
  Print(options, json, text);
  return broken ? 1 : 0;
}

int Release(Client* client, const Options& options) {
  const Status released = client->Activate();
  if (!released.ok()) return Fail(released);
  Print(options, {{"released", true}}, "released: nobody can go on with the machine's old state\n");
  return 0;
}

int Bench(Client* client, const Options& options) {
  auto result = RunBench(client, options.bench);
  if (!result.ok()) return Fail(result.status());
  const BenchResult& r = *result;
  const auto total = static_cast<double>(r.reads + r.writes);
  const auto us = [&](double percent) {
    return static_cast<double>(r.latency.Percentile(percent)) / 1e3;
  };
  const double iops = total / r.seconds;
  const double rate = iops * static_cast<double>(options.bench.size);
  const auto per_io = [&](uint64_t calls) {
    return static_cast<double>(calls) / std::max(1.0, total);
  };
  const Json json = {
      {"pattern", options.bench.pattern},
      {"size", options.bench.size},
      {"depth", options.bench.depth},
      {"seconds", r.seconds},
      {"reads", r.reads},
      {"writes", r.writes},
      {"iops", iops},
      {"bytes-per-second", rate},
      {"latency-us",
       {{"mean", r.latency.mean() / 1e3},
        {"p50", us(50)},
        {"p90", us(90)},
        {"p99", us(99)},
        {"p99.9", us(99.9)},
        {"max", static_cast<double>(r.latency.max()) / 1e3}}},
      {"verified-reads", r.verified},
      {"send-calls-per-io", per_io(r.stats.send_calls)},
      {"receive-calls-per-io", per_io(r.stats.receive_calls)},
      {"reconnects", r.stats.reconnects},
  };
  std::string text = fmt::format(
      "{} of {} bytes, depth {}: {:.0f} IOPS, {}/s\n"
      "latency (us): mean {:.1f}, p50 {:.1f}, p90 {:.1f}, p99 {:.1f}, p99.9 {:.1f}, max {:.1f}\n"
      "system calls per request: {:.3f} send, {:.3f} receive; reconnects: {}\n",
      options.bench.pattern, options.bench.size, options.bench.depth, iops, HumanBytes(rate),
      r.latency.mean() / 1e3, us(50), us(90), us(99), us(99.9),
      static_cast<double>(r.latency.max()) / 1e3, per_io(r.stats.send_calls),
      per_io(r.stats.receive_calls), r.stats.reconnects);
  if (options.bench.verify) text += fmt::format("verified: {} reads\n", r.verified);
  Print(options, json, text);
  return 0;
}

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

// The options that every command has.
CLI::App* AddCommand(CLI::App* app, Options* o, const char* name, const char* help) {
  CLI::App* command = app->add_subcommand(name, help);
  command
      ->add_option("server", o->client.server,
                   "cloudblk://HOST[:PORT]/VOLUME, nbd://HOST[:PORT]/EXPORT and the like")
      ->required();
  command
      ->add_option("--timeout", o->client.open_timeout_ms,
                   "Give up opening after so many ms (default 30000)")
      ->transform(kDecimal);
  command
      ->add_option("--server-timeout", o->client.server_timeout,
                   "Leave a server that is silent for so many s (default 8)")
      ->transform(kDecimal)
      ->check(CLI::Range(uint32_t{0}, kMaxServerTimeout));
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

// So that who is refused because of it sees what has the volume.
std::string ClientName(const std::string& command) {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "unknown host");
  return fmt::format("{} cloudblk {}, pid {}", host, command, getpid());
}

int Run(const std::string& name, const Options& options) {
  if (name == "ping") return Ping(options);
  if (name == "nbd-check") return NbdCheck(options);
  auto client = Client::Open(options.client);
  if (!client.ok()) return Fail(client.status());
  if (name == "info") return Info(client->get(), options);
  if (name == "read") return Read(client->get(), options);
  if (name == "write") return Write(client->get(), options);
  if (name == "discard") return Discard(client->get(), options);
  if (name == "resize") return Resize(client->get(), options);
  if (name == "flush") return Flush(client->get(), options);
  if (name == "release") return Release(client->get(), options);
  return Bench(client->get(), options);
}

// A full disk shows only now.
int FlushOutput() {
  errno = 0;
  if (fflush(stdout) == 0 && std::cout.flush()) return 0;
  // What failed may have been an earlier write, whose reason is gone.
  return FailErrno(errno != 0 ? -errno : -EIO, "cannot write to the standard output");
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
  CLI::App* bench = AddCommand(&app, &o, "bench", "Measure IOPS and latency");
  for (CLI::App* command : {read, write, discard, flush, bench}) AddActive(command, &o);
  for (CLI::App* command : {read, write, discard}) AddExtent(command, &o);
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
  o.client.read_only = command == read || (command == bench && o.bench.pattern.ends_with("read"));
  if (command == discard && o.length == UINT64_MAX) {
    return Fail(Status(EINVAL, "discard needs --length: it says how much to let go"));
  }
  if (command == release && !o.force) {
    return Fail(Status(EINVAL, "release needs --force: the saved machine cannot be resumed then"));
  }
  o.client.end_reservation = command == release;
  const int result = Run(name, o);
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
