// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/commands.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/copy.h"
#include "tools/extents.h"
#include "tools/histogram.h"
#include "tools/image.h"
#include "tools/interrupt.h"
#include "tools/libvirt_xml.h"
#include "tools/nbd_check.h"
#include "tools/progress.h"
#include "tools/virsh.h"

namespace cloudblk {
namespace {

using Json = nlohmann::ordered_json;

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

int Import(Client* client, const Options& options) {
  auto done = ImportImage(client, options.file, options.format.empty() ? "raw" : options.format,
                          !options.format.empty());
  if (!done.ok()) return Fail(done.status());
  Print(options, {{"bytes", *done}}, fmt::format("{} bytes imported and flushed\n", *done));
  return 0;
}

int Export(std::unique_ptr<Client> client, const Options& options) {
  auto done =
      ExportImage(std::move(client), options.file, options.format.empty() ? "raw" : options.format);
  if (!done.ok()) return Fail(done.status());
  Print(options, {{"bytes", *done}}, fmt::format("{} bytes exported\n", *done));
  return 0;
}

int Map(Client* client, const Options& options) {
  if (!client->info().block_status) {
    return Fail(Status(ENOTSUP, "this server does not tell where the volume has data"));
  }
  // Where nobody keeps a volume's holder, who only looks has no connection.
  const Status ready = client->info().fences ? Status::Ok() : client->Activate();
  if (!ready.ok()) return Fail(ready);
  const CloudblkInfo info = client->info();
  const uint64_t offset = std::min(options.offset, info.size_bytes);
  ExtentReader extents(client, offset, offset + std::min(options.length, info.size_bytes - offset));
  Json json = Json::array();
  std::string text = fmt::format("{:>20} {:>20}\n", "offset", "length");
  uint64_t data = 0;
  while (true) {
    auto next = extents.Next();
    if (!next.ok()) return Fail(next.status());
    if (next->length == 0) break;
    json.push_back({{"offset", next->offset},
                    {"length", next->length},
                    {"hole", next->hole},
                    {"zero", next->zero}});
    const char* const what =
        next->zero ? (next->hole ? "hole" : "zeros") : (next->hole ? "unallocated" : "data");
    text += fmt::format("{:>20} {:>20} {}\n", next->offset, next->length, what);
    if (!next->zero) data += next->length;
  }
  text += fmt::format("{} of {} have data\n", HumanBytes(static_cast<double>(data)),
                      HumanBytes(static_cast<double>(info.size_bytes)));
  Print(options, json, text);
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
  auto findings = CheckNbdServer(options.client.server, options.client.tls, options.write,
                                 options.client.open_timeout_ms);
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

// Where packages put the plugin.
constexpr char kInstalledPlugin[] = "/usr/lib/cloudblk/cloudblk.so";

Json AsJson(const LibvirtXml& made) {
  return {{"id", made.id}, {"bus", made.bus}, {"slot", made.slot}, {"xml", made.xml}};
}

int LibvirtXmlOf(const Options& options) {
  LibvirtDisk disk = options.libvirt;
  disk.server = options.client.server;
  disk.tls = options.client.tls;
  if (options.compiled_in && !disk.plugin.empty()) {
    return Fail(Status(EINVAL, "--plugin and --compiled-in exclude each other"));
  }
  if (!options.compiled_in && disk.plugin.empty()) disk.plugin = kInstalledPlugin;
  const bool define = !options.domain.empty() && !options.print;
  if (options.domain.empty()) {
    auto made = MakeCommandline(disk);
    if (!made.ok()) return Fail(made.status());
    Print(options, AsJson(*made), made->xml);
    return 0;
  }
  const auto domain = RunVirsh(
      options.connect, {"dumpxml", "--inactive", "--security-info", "--", options.domain}, "");
  if (!domain.ok()) return Fail(domain.status());
  auto made = AddToDomain(domain.value(), disk);
  if (!made.ok()) {
    return Fail(Status(made.status().error(),
                       fmt::format("domain {}: {}", options.domain, made.status().message())));
  }
  if (define) {
    const auto defined = RunVirsh(options.connect, {"define", "/dev/stdin"}, made->xml);
    if (!defined.ok()) return Fail(defined.status());
  }
  Print(options, AsJson(*made),
        define ? fmt::format("domain {} has {} from its next start on, at slot {:#04x} of {}\n",
                             options.domain, made->id, made->slot, made->bus)
               : made->xml);
  return 0;
}

}  // namespace

int Fail(const Status& status) {
  // An interrupt makes everything fail, so that it is the reason.
  const bool interrupted = InterruptSignal() != 0;
  // fmt::print would throw where stderr is a terminal that went away.
  fprintf(stderr, "cloudblk: %s\n", interrupted ? "interrupted" : status.message().c_str());
  return 1;
}

int RunCommand(const std::string& name, const Options& options) {
  if (name == "ping") return Ping(options);
  if (name == "nbd-check") return NbdCheck(options);
  if (name == "libvirt-xml") return LibvirtXmlOf(options);
  auto client = Client::Open(options.client);
  if (!client.ok()) return Fail(client.status());
  if (name == "info") return Info(client->get(), options);
  if (name == "read") return Read(client->get(), options);
  if (name == "write") return Write(client->get(), options);
  if (name == "map") return Map(client->get(), options);
  if (name == "import") return Import(client->get(), options);
  if (name == "export") return Export(std::move(*client), options);
  if (name == "discard") return Discard(client->get(), options);
  if (name == "resize") return Resize(client->get(), options);
  if (name == "flush") return Flush(client->get(), options);
  if (name == "release") return Release(client->get(), options);
  return Bench(client->get(), options);
}

}  // namespace cloudblk
