// SPDX-License-Identifier: GPL-2.0-or-later
//
// virtio-bench: drives any virtio-blk PCI device of a QEMU without a guest, and measures it.
//
// QEMU runs with `-object memory-backend-file,share=on` as its memory from address 0 and with
// `-qtest unix:PATH,server=on,wait=off`; its processor has to stand still (-accel qtest, or a
// firmware that halts). This program is the driver: it builds the virtqueues in the shared memory,
// notifies through the qtest socket, only when the device asks for it, and polls for what comes
// back.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <ctime>

#include "tests/bench/load.h"
#include "tests/bench/report.h"
#include "tests/bench/thread_stats.h"

namespace cloudblk::bench {
namespace {

struct Options {
  std::string qtest;
  std::string memory;
  unsigned slot = 4;
  LoadOptions load;
  StreamOptions stream;
  StreamOptions background{.pattern = "write", .size = 1 << 20, .depth = 0, .background = true};
  double seconds = 3;
  double warmup = 0.5;
  uint64_t count = 0;
  bool fill = false;
  bool indirect = true;
  bool spin = false;
  bool syscalls = false;
  std::string before;
  std::string after;
  std::vector<std::string> watch;
};

int Fail(const Status& status) {
  fmt::print(stderr, "virtio-bench: {}\n", status.message());
  return 1;
}

Status RunHook(const std::string& command) {
  if (command.empty() || system(command.c_str()) == 0) return Status::Ok();
  return Status(EIO, fmt::format("failed: {}", command));
}

Json Describe(const Options& o, const PhaseResult& result, uint64_t driver_ns) {
  const StreamResult& stream = result.streams[0];
  const auto ios = static_cast<double>(std::max<uint64_t>(stream.ios, 1));
  Json json = {{"pattern", o.stream.pattern},
               {"size", o.stream.size},
               {"depth", o.stream.depth},
               {"queues", o.load.queues},
               {"chain", o.indirect ? "indirect" : "direct"}};
  AddRates(result.seconds, stream.ios, stream.bytes, stream.latency, &json);
  json["driver-cpu-us-per-io"] = static_cast<double>(driver_ns) / 1e3 / ios;
  json["kicks-per-io"] = static_cast<double>(result.kicks) / ios;
  json["submit-batch"] = ios / static_cast<double>(std::max<uint64_t>(result.publishes, 1));
  json["completion-batch"] = ios / static_cast<double>(std::max<uint64_t>(result.reaps, 1));
  if (o.load.verify) json["verified-reads"] = result.verified;
  if (result.streams.size() > 1) {
    const StreamResult& other = result.streams[1];
    Json background = {{"pattern", o.background.pattern},
                       {"size", o.background.size},
                       {"depth", o.background.depth}};
    AddRates(result.seconds, other.ios, other.bytes, other.latency, &background);
    json["background"] = background;
  }
  return json;
}

// The measured part, after the warm-up.
Status Measure(const Options& o, Load* load) {
  auto watched = ParseWatched(o.watch);
  if (!watched.ok()) return watched.status();
  Status hook = RunHook(o.before);
  if (!hook.ok()) return hook;
  SyscallCounter calls;
  if (o.syscalls) {
    Status status = calls.Start(*watched);
    if (!status.ok()) return status;
  }
  ThreadStats threads(*watched);
  threads.Start();
  const uint64_t driver_before = OwnCpuNs();
  auto result = load->Run(o.seconds, o.count);
  if (!result.ok()) return result.status();
  const uint64_t driver_ns = OwnCpuNs() - driver_before;
  const Json per_thread = threads.PerIo(result->streams[0].ios, o.syscalls ? &calls : nullptr);
  hook = RunHook(o.after);
  if (!hook.ok()) return hook;
  if (o.load.verify) {
    auto verified = load->ReadBack();
    if (!verified.ok()) return verified.status();
    result->verified += *verified;
  }
  Json json = Describe(o, *result, driver_ns);
  json["threads"] = per_thread;
  fmt::print("{}\n", json.dump(2));
  return Status::Ok();
}

Status Run(Options o) {
  auto memory = GuestMemory::Map(o.memory);
  if (!memory.ok()) return memory.status();
  auto qtest = Qtest::Connect(o.qtest);
  if (!qtest.ok()) return qtest.status();
  auto device = VirtioPci::Open(qtest->get(), o.slot);
  if (!device.ok()) return device.status();
  o.load.chain = o.indirect ? Chain::kIndirect : Chain::kDirect;
  o.load.wait = o.spin ? Wait::kSpin : Wait::kYield;
  o.load.streams = {o.stream};
  if (o.background.depth != 0) o.load.streams.push_back(o.background);
  auto load = Load::Create(memory->get(), qtest->get(), device->get(), o.load);
  if (!load.ok()) return load.status();
  if (o.fill || o.load.verify) {
    Status status = (*load)->Fill();
    if (!status.ok()) return status;
  }
  // A warm-up of as many requests, where they are counted: then each run does the same.
  const bool counted = o.count != 0;
  if (counted || o.warmup > 0) {
    auto result = (*load)->Run(o.warmup, counted ? o.count : 0);
    if (!result.ok()) return result.status();
  }
  if (!counted && o.seconds <= 0) return Status::Ok();
  return Measure(o, load->get());
}

void AddLoadOptions(CLI::App* app, Options* o) {
  const CLI::AsSizeValue size(false);
  app->add_option("--pattern", o->stream.pattern, "read, write, randread, randwrite or randrw");
  app->add_option("--size", o->stream.size, "Bytes of a request")->transform(size);
  app->add_option("--depth", o->stream.depth, "Requests in flight on each queue");
  app->add_option("--queues", o->load.queues, "Queues to use");
  app->add_option("--queue-size", o->load.queue_size, "Entries of a queue, not the device's own");
  app->add_option("--range", o->load.range, "Only the first so many bytes")->transform(size);
  app->add_option("--background-depth", o->background.depth,
                  "Beside it, that many sequential writes in flight on the first queue");
  app->add_option("--background-size", o->background.size, "Bytes of these")->transform(size);
  app->add_option("--seconds", o->seconds, "How long; 0: only fill and warm up");
  app->add_option("--warmup", o->warmup, "Seconds before that");
  app->add_option("--count", o->count, "Requests, instead of --seconds and --warmup");
  app->add_option("--seed", o->load.seed, "Of offsets and content");
  app->add_flag("--lockstep", o->load.lockstep,
                "Send the next requests only when all have come back, for figures that repeat");
  app->add_flag("--fill", o->fill, "Write the whole range before");
  app->add_flag("--verify", o->load.verify, "Fill, and check the content of everything read");
  app->add_flag("!--direct", o->indirect,
                "Descriptor chains in the ring itself, not in indirect tables as Linux makes them");
  app->add_flag("--spin", o->spin, "Poll without giving up the processor");
}

int Main(int argc, char** argv) {
  Options o;
  CLI::App app("virtio-bench: measures a virtio-blk device of a QEMU without a guest");
  app.add_option("--qtest", o.qtest, "QEMU's qtest socket")->required();
  app.add_option("--memory", o.memory, "The file that is QEMU's memory")->required();
  app.add_option("--slot", o.slot, "The device's PCI slot");
  app.add_option("--watch", o.watch, "NAME=PID: report that process's threads");
  app.add_flag("--syscalls", o.syscalls, "Count the watched threads' system calls (as root)");
  app.add_option("--before", o.before, "Shell command to run just before the measured part");
  app.add_option("--after", o.after, "Shell command to run just after it");
  AddLoadOptions(&app, &o);
  CLI11_PARSE(app, argc, argv);
  const Status status = Run(o);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace cloudblk::bench

int main(int argc, char** argv) { return cloudblk::bench::Main(argc, argv); }
