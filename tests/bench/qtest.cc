// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/qtest.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace cloudblk::bench {
namespace {

char SizeLetter(int size) { return "bwlq"[std::countr_zero(static_cast<unsigned>(size))]; }

[[noreturn]] void Die(const std::string& message) {
  fmt::print(stderr, "virtio-bench: {}\n", message);
  exit(1);
}

}  // namespace

Result<std::unique_ptr<Qtest>> Qtest::Connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Status(ENAMETOOLONG, fmt::format("the socket's path {} is too long", path));
  }
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) {
    return Status(
        errno, fmt::format("cannot connect to QEMU's qtest socket {}: {}", path, strerror(errno)));
  }
  return std::unique_ptr<Qtest>(new Qtest(fd));
}

Qtest::~Qtest() { close(fd_); }

void Qtest::Send(const std::string& line) {
  if (send(fd_, line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    Die("QEMU does not take commands any more");
  }
}

// Whether there was something.
bool Qtest::Receive(bool wait) {
  char piece[4096];
  const ssize_t got = recv(fd_, piece, sizeof(piece), wait ? 0 : MSG_DONTWAIT);
  if (got == 0 || (got < 0 && (wait || errno != EAGAIN))) Die("QEMU has closed its qtest socket");
  if (got < 0) return false;
  received_.append(piece, static_cast<size_t>(got));
  return true;
}

// The next complete line received; empty if there is none.
std::string Qtest::NextLine() {
  const size_t end = received_.find('\n');
  if (end == std::string::npos) return "";
  std::string line = received_.substr(0, end);
  received_.erase(0, end + 1);
  if (!line.starts_with("OK")) Die(fmt::format("QEMU answered '{}'", line));
  return line;
}

uint64_t Qtest::Command(const std::string& line) {
  while (Pending() > 0) Receive(true);
  Send(line);
  std::string answer;
  while ((answer = NextLine()).empty()) Receive(true);
  return answer.size() > 3 ? strtoull(answer.c_str() + 3, nullptr, 0) : 0;
}

uint64_t Qtest::Read(uint64_t address, int size) {
  return Command(fmt::format("read{} {:#x}\n", SizeLetter(size), address));
}

void Qtest::Write(uint64_t address, int size, uint64_t value) {
  Command(fmt::format("write{} {:#x} {:#x}\n", SizeLetter(size), address, value));
}

uint32_t Qtest::PortIn(uint16_t port, int size) {
  return static_cast<uint32_t>(Command(fmt::format("in{} {:#x}\n", SizeLetter(size), port)));
}

void Qtest::PortOut(uint16_t port, int size, uint32_t value) {
  Command(fmt::format("out{} {:#x} {:#x}\n", SizeLetter(size), port, value));
}

void Qtest::Post(uint64_t address, int size, uint64_t value) {
  Send(fmt::format("write{} {:#x} {:#x}\n", SizeLetter(size), address, value));
  ++pending_;
}

int Qtest::Pending() {
  if (pending_ > 0) Receive(false);
  while (pending_ > 0 && !NextLine().empty()) --pending_;
  return pending_;
}

}  // namespace cloudblk::bench
