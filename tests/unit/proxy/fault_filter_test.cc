// SPDX-License-Identifier: GPL-2.0-or-later
//
// The filters that tests put before a storage do what their names say.
#include "tests/support/cpp/fault_filter.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/clock.h"
#include "tests/unit/proxy/upstream.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kSize = 1 << 20;

class FaultFilterTest : public testing::TestWithParam<Kind> {
 protected:
  // The storage with those faults.
  std::unique_ptr<Storage> With(const std::string& faults) {
    auto storage =
        std::make_unique<Storage>("fault:" + faults + ":" + provided_.uri(), folder_.path());
    if (storage->ok() && GetParam().remote()) {
      EXPECT_TRUE(storage->Acquire().ok());
    }
    return storage;
  }

  TempFolder folder_;
  Provided provided_{GetParam(), folder_ / "disk.img", kSize};
};

TEST_P(FaultFilterTest, Delays) {
  const auto storage = With("delay=30");
  const int64_t before = MonotonicNs();
  EXPECT_EQ(storage->Write(0, Pattern(4096, 1)), 0);
  EXPECT_GE(MonotonicNs() - before, 30 * kNsPerMs);
}

TEST_P(FaultFilterTest, FailsEachNthWhichIsNotDone) {
  const auto storage = With("error-nth=3");
  const std::vector<uint8_t> first = Pattern(4096, 1);
  EXPECT_EQ(storage->Write(0, first), 0);
  EXPECT_EQ(storage->Flush(), 0);
  EXPECT_EQ(storage->Write(0, Pattern(4096, 2)), -EIO);
  std::vector<uint8_t> read;
  EXPECT_EQ(storage->Read(0, 4096, &read), 0);
  EXPECT_EQ(read, first);
  EXPECT_EQ(storage->Flush(), 0);
  EXPECT_EQ(storage->Flush(), -EIO);
}

TEST_P(FaultFilterTest, GoesAway) {
  const auto storage = With("disconnect-nth=2");
  EXPECT_EQ(storage->Write(0, Pattern(4096, 1)), 0);
  EXPECT_EQ(storage->Write(0, Pattern(4096, 1)), -EIO);
  EXPECT_EQ(storage->Flush(), -EIO);
}

TEST_P(FaultFilterTest, HangsAndGoesOn) {
  const std::string hung = folder_ / "hung";
  const auto storage = With("hang-file=" + hung);
  EXPECT_EQ(storage->Write(0, Pattern(4096, 1)), 0);
  std::ofstream(hung) << "";
  IoOp op;
  op.kind = Operation::kFlush;
  op.result = 1;
  storage->Start(&op);
  const int64_t end = MonotonicNs() + 50 * kNsPerMs;
  EXPECT_TRUE(storage->TurnUntil([end] { return MonotonicNs() > end; }));
  EXPECT_EQ(op.result, 1);
  std::filesystem::remove(hung);
  storage->Wait();
  EXPECT_EQ(op.result, 0);
}

TEST_P(FaultFilterTest, Stack) {
  const auto storage = With("delay=30:fault:error-nth=2");
  const int64_t before = MonotonicNs();
  EXPECT_EQ(storage->Flush(), 0);
  EXPECT_EQ(storage->Flush(), -EIO);
  EXPECT_GE(MonotonicNs() - before, 60 * kNsPerMs);
}

using Where = Kind::Where;
const Kind kKinds[] = {{"Memory", Where::kMemory},
                       {"Libaio", Where::kFile, "&aio=libaio"},
                       {"Uring", Where::kFile, "&aio=io_uring"},
                       {"Buffered", Where::kFile, "&direct=off"},
                       {"Proxy", Where::kProxy},
                       {"Nbdkit", Where::kNbdkit}};
INSTANTIATE_TEST_SUITE_P(Any, FaultFilterTest, testing::ValuesIn(kKinds), NameOf);
INSTANTIATE_TEST_SUITE_P(Ceph, FaultFilterTest, testing::ValuesIn(CephKinds()), NameOf);

TEST(ParseFaults, NamesWhatIsNone) {
  EXPECT_THAT(ParseFaults("delay=5,error=1").status().message(),
              testing::HasSubstr("'error=1' is no fault"));
  EXPECT_FALSE(ParseFaults("delay=").ok());
  EXPECT_FALSE(ParseFaults("error-nth=0").ok());
  EXPECT_FALSE(ParseFaults("hang-file=here").ok());
}

}  // namespace
}  // namespace cloudblk::proxy
