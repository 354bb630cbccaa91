// SPDX-License-Identifier: GPL-2.0-or-later
//
// QEMU's qtest protocol: lines over a socket, which take the place of a processor.
#ifndef CLOUDBLK_TESTS_BENCH_QTEST_H_
#define CLOUDBLK_TESTS_BENCH_QTEST_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace cloudblk::bench {

// A broken connection ends the program: nothing can be measured without it.
class Qtest {
 public:
  // Connects to QEMU's `-qtest unix:PATH,server=on`.
  static Result<std::unique_ptr<Qtest>> Connect(const std::string& path);
  ~Qtest();
  Qtest(const Qtest&) = delete;
  Qtest& operator=(const Qtest&) = delete;

  // size: 1, 2, 4 or 8 bytes; ports have no 8.
  uint64_t Read(uint64_t address, int size);
  void Write(uint64_t address, int size, uint64_t value);
  uint32_t PortIn(uint16_t port, int size);
  void PortOut(uint16_t port, int size, uint32_t value);

  // As Write(), without waiting until QEMU has done it: what waits is counted by Pending().
  void Post(uint64_t address, int size, uint64_t value);
  // Writes posted that QEMU has not confirmed yet.
  int Pending();

 private:
  explicit Qtest(int fd) : fd_(fd) {}
  void Send(const std::string& line);
  bool Receive(bool wait);
  std::string NextLine();
  uint64_t Command(const std::string& line);

  const int fd_;
  std::string received_;
  int pending_ = 0;
};

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_QTEST_H_
