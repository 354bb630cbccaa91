// SPDX-License-Identifier: GPL-2.0-or-later
//
// loopback-floor: what TCP over loopback itself costs, for comparison. Requests and replies go in
// batches, one thread on each side, blocking sockets; no device, no volume, no checks, no replay.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <random>

#include "tests/bench/report.h"
#include "tests/bench/thread_stats.h"

namespace cloudblk::bench {
namespace {

struct Request {
  uint32_t write;
  uint32_t length;
  uint64_t tag;
  uint64_t offset;
};
struct Reply {
  uint64_t tag;
  uint64_t length;  // of the payload that follows
};

constexpr size_t kBuffer = 2 << 20;
constexpr size_t kMaxVectors = 1024;

struct Options {
  uint16_t port = 0;
  uint64_t range = 256 << 20;
  std::string pattern = "randread";
  uint32_t size = 4096;
  uint32_t depth = 32;
  double seconds = 3;
  double warmup = 0.5;
  uint64_t count = 0;
  bool verify = false;
  bool syscalls = false;
  std::vector<std::string> watch;
};

[[noreturn]] void Die(const char* what) {
  fmt::print(stderr, "loopback-floor: {}: {}\n", what, strerror(errno));
  exit(1);
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// As cloudblk's connections are.
void SetUp(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  constexpr std::string_view kReno = "reno";
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(), kReno.size());
}

void SendAll(int fd, std::vector<iovec>* vectors) {
  for (size_t at = 0; at < vectors->size();) {
    msghdr message{};
    message.msg_iov = vectors->data() + at;
    message.msg_iovlen = std::min(vectors->size() - at, kMaxVectors);
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0) Die("send");
    for (; at < vectors->size() && static_cast<size_t>(sent) >= (*vectors)[at].iov_len; ++at) {
      sent -= static_cast<ssize_t>((*vectors)[at].iov_len);
    }
    if (at < vectors->size()) {
      (*vectors)[at].iov_base = static_cast<uint8_t*>((*vectors)[at].iov_base) + sent;
      (*vectors)[at].iov_len -= static_cast<size_t>(sent);
    }
  }
  vectors->clear();
}

// What a byte range of the volume holds: each word says where it is.
void FillWords(uint8_t* data, uint64_t offset, uint64_t length) {
  for (uint64_t i = 0; i < length; i += 8) {
    const uint64_t word = offset + i + 1;
    memcpy(data + i, &word, 8);
  }
}

// ---- Server ----

// Answers all complete requests in the buffer with one send; returns the bytes used.
size_t Serve(int fd, std::vector<uint8_t>* volume, const uint8_t* data, size_t size,
             std::vector<Reply>* replies, std::vector<iovec>* vectors) {
  size_t at = 0;
  replies->clear();
  // No reallocation while vectors point into it.
  replies->reserve(kBuffer / sizeof(Request));
  while (size - at >= sizeof(Request)) {
    Request request;
    memcpy(&request, data + at, sizeof(request));
    if (request.offset + request.length > volume->size()) Die("a request outside the volume");
    uint8_t* place = volume->data() + request.offset;
    const size_t payload = request.write != 0 ? request.length : 0;
    if (size - at < sizeof(Request) + payload) break;
    memcpy(place, data + at + sizeof(Request), payload);
    at += sizeof(Request) + payload;
    replies->push_back({request.tag, request.write != 0 ? 0 : request.length});
    vectors->push_back({&replies->back(), sizeof(Reply)});
    if (request.write == 0) vectors->push_back({place, request.length});
  }
  if (!vectors->empty()) SendAll(fd, vectors);
  return at;
}

int RunServer(const Options& o) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(o.port);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) < 0 ||
      listen(listener, 1) < 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) < 0) {
    Die("listen");
  }
  std::vector<uint8_t> volume(o.range);
  FillWords(volume.data(), 0, o.range);
  fmt::print("listening on tcp://127.0.0.1:{}\n", ntohs(address.sin_port));
  fflush(stdout);
  std::vector<uint8_t> buffer(kBuffer);
  std::vector<Reply> replies;
  std::vector<iovec> vectors;
  for (;;) {
    const int fd = accept(listener, nullptr, nullptr);
    if (fd < 0) Die("accept");
    SetUp(fd);
    size_t have = 0;
    for (ssize_t got; (got = recv(fd, &buffer[have], buffer.size() - have, 0)) > 0;) {
      have += static_cast<size_t>(got);
      const size_t used = Serve(fd, &volume, buffer.data(), have, &replies, &vectors);
      memmove(buffer.data(), &buffer[used], have - used);
      have -= used;
    }
    close(fd);
  }
}

// ---- Client ----

class Client {
 public:
  Client(int fd, const Options& options)
      : fd_(fd),
        options_(options),
        requests_(options.depth),
        starts_(options.depth),
        data_(uint64_t{options.depth} * options.size),
        buffer_(kBuffer) {}

  // Runs for that time, or for that many requests.
  void Run(double seconds, uint64_t count);

  uint64_t ios() const { return ios_; }
  const Histogram& latency() const { return latency_; }
  double seconds() const { return seconds_; }

 private:
  uint8_t* Data(uint64_t tag) { return &data_[tag * options_.size]; }
  size_t Send(size_t most);
  void Receive();
  void Finish(const Reply& reply);

  const int fd_;
  const Options options_;
  std::mt19937_64 random_{1};
  uint64_t sequential_ = 0;
  std::vector<Request> requests_;
  std::vector<int64_t> starts_;
  std::vector<uint8_t> data_;
  std::vector<uint8_t> buffer_;
  std::vector<uint64_t> idle_;
  std::vector<iovec> vectors_;
  Reply reply_{};
  size_t header_have_ = 0;     // bytes of reply_
  uint64_t payload_have_ = 0;  // bytes of its payload
  int64_t now_ns_ = 0;
  uint64_t ios_ = 0;
  Histogram latency_;
  double seconds_ = 0;
};

// Sends up to `most` requests, as many as are idle; gives how many.
size_t Client::Send(size_t most) {
  const uint64_t places = options_.range / options_.size;
  const bool random = options_.pattern.starts_with("rand");
  const bool write = options_.pattern.ends_with("write");
  const int64_t now_ns = NowNs();
  const size_t count = std::min(most, idle_.size());
  for (size_t i = 0; i < count; ++i) {
    const uint64_t tag = idle_.back();
    idle_.pop_back();
    const uint64_t place = (random ? random_() : sequential_++) % places;
    requests_[tag] = {write, options_.size, tag, place * options_.size};
    starts_[tag] = now_ns;
    if (write && options_.verify) FillWords(Data(tag), requests_[tag].offset, options_.size);
    vectors_.push_back({&requests_[tag], sizeof(Request)});
    if (write) vectors_.push_back({Data(tag), options_.size});
  }
  SendAll(fd_, &vectors_);
  return count;
}

void Client::Finish(const Reply& reply) {
  latency_.Add(static_cast<uint64_t>(now_ns_ - starts_[reply.tag]));
  ++ios_;
  idle_.push_back(reply.tag);
  if (!options_.verify || reply.length == 0) return;
  std::vector<uint8_t> wanted(reply.length);
  FillWords(wanted.data(), requests_[reply.tag].offset, reply.length);
  if (memcmp(wanted.data(), Data(reply.tag), reply.length) != 0) {
    errno = EIO;
    Die("wrong content");
  }
}

void Client::Receive() {
  const ssize_t got = recv(fd_, buffer_.data(), buffer_.size(), 0);
  if (got <= 0) Die("receive");
  now_ns_ = NowNs();
  const uint8_t* at = buffer_.data();
  const uint8_t* end = at + got;
  while (at < end) {
    if (header_have_ < sizeof(Reply)) {
      const size_t piece = std::min<size_t>(sizeof(Reply) - header_have_, end - at);
      memcpy(reinterpret_cast<uint8_t*>(&reply_) + header_have_, at, piece);
      header_have_ += piece;
      at += piece;
      if (header_have_ < sizeof(Reply)) return;
    }
    const size_t piece = std::min<size_t>(reply_.length - payload_have_, end - at);
    // The floor is one copy out of the kernel; that the buffer is not the final place costs it
    // none.
    if (options_.verify) memcpy(Data(reply_.tag) + payload_have_, at, piece);
    payload_have_ += piece;
    at += piece;
    if (payload_have_ < reply_.length) return;
    Finish(reply_);
    header_have_ = payload_have_ = 0;
  }
}

void Client::Run(double seconds, uint64_t count) {
  ios_ = 0;
  latency_ = Histogram();
  idle_.resize(options_.depth);
  for (uint64_t tag = 0; tag < options_.depth; ++tag) idle_[tag] = tag;
  FillWords(data_.data(), 0, data_.size());
  const int64_t start_ns = NowNs();
  const int64_t deadline_ns = start_ns + static_cast<int64_t>(seconds * 1e9);
  uint64_t started = 0;
  now_ns_ = start_ns;
  while (true) {
    if (count != 0 ? started < count : now_ns_ < deadline_ns) {
      started += Send(count != 0 ? count - started : SIZE_MAX);
    }
    if (idle_.size() == options_.depth) break;
    Receive();
  }
  seconds_ = static_cast<double>(NowNs() - start_ns) / 1e9;
}

int RunClient(const Options& o) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(o.port);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) Die("connect");
  SetUp(fd);
  auto watched = ParseWatched(o.watch);
  watched.value().push_back({"client", getpid()});
  auto client = std::make_unique<Client>(fd, o);
  client->Run(o.warmup, o.count);
  SyscallCounter calls;
  if (o.syscalls) {
    const Status status = calls.Start(*watched);
    if (!status.ok()) {
      fmt::print(stderr, "loopback-floor: {}\n", status.message());
      return 1;
    }
  }
  ThreadStats threads(*watched);
  threads.Start();
  client->Run(o.seconds, o.count);
  Json json = {{"pattern", o.pattern}, {"size", o.size}, {"depth", o.depth}};
  AddRates(client->seconds(), client->ios(), client->ios() * o.size, client->latency(), &json);
  json["threads"] = threads.PerIo(client->ios(), o.syscalls ? &calls : nullptr);
  fmt::print("{}\n", json.dump(2));
  return 0;
}

int Main(int argc, char** argv) {
  const CLI::AsSizeValue size(false);
  Options o;
  CLI::App app("loopback-floor: what batched requests over loopback TCP cost at least");
  app.require_subcommand(1);
  CLI::App* server = app.add_subcommand("server", "Serve a volume in memory, one client at a time");
  CLI::App* client = app.add_subcommand("client", "Measure");
  for (CLI::App* command : {server, client}) {
    command->add_option("--port", o.port, "TCP port; the server takes a free one for 0");
    command->add_option("--range", o.range, "Bytes of the volume")->transform(size);
  }
  client->add_option("--pattern", o.pattern, "read, write, randread or randwrite");
  client->add_option("--size", o.size, "Bytes of a request")->transform(size);
  client->add_option("--depth", o.depth, "Requests in flight");
  client->add_option("--seconds", o.seconds, "How long");
  client->add_option("--warmup", o.warmup, "Seconds before that");
  client->add_option("--count", o.count, "Requests, instead of --seconds and --warmup");
  client->add_option("--watch", o.watch, "NAME=PID: report that process's threads");
  client->add_flag("--syscalls", o.syscalls, "Count system calls (as root)");
  client->add_flag("--verify", o.verify, "Check the content of what is read");
  CLI11_PARSE(app, argc, argv);
  return app.got_subcommand(server) ? RunServer(o) : RunClient(o);
}

}  // namespace
}  // namespace cloudblk::bench

int main(int argc, char** argv) { return cloudblk::bench::Main(argc, argv); }
