// SPDX-License-Identifier: GPL-2.0-or-later
//
// A resize step by step, of a volume whose storage does not answer.
#include "proxy/resizer.h"

#include <gmock/gmock.h>

#include "proxy/volume_gate.h"
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;

class ResizerTest : public OwnershipTest, private ResizeAsker {
 protected:
  // A connection with requests at the storage.
  class Member final : public GateMember {
   public:
    void Pause() override { paused = true; }
    void Resume() override { paused = false; }
    void Resized(uint64_t size) override { sizes.push_back(size); }
    bool paused = false;
    std::vector<uint64_t> sizes;  // that it was told
  };

  ResizerTest() { gate_.Join(&member_); }
  ~ResizerTest() override { gate_.Leave(&member_); }

  void Resize(uint64_t size) {
    resizer_.Resize(this, {.size = size, .flags = 0}, "admin");
    Store();
  }
  void AnswerResize(const ResizeAnswer& answer) override { answers_.push_back(answer); }

  VolumeGate gate_;
  Member member_;
  std::vector<ResizeAnswer> answers_;
  Resizer resizer_{"disk",  backend_.get(), ownership_.get(), &gate_, [this] { return now_; },
                   &alarm_, &blocking_};
};

TEST_F(ResizerTest, AGateThatCannotCloseOpensAgain) {
  Resize(2 << 20);
  EXPECT_TRUE(member_.paused);
  EXPECT_EQ(disk_.locks, 1);
  Pass(4'999'999'999);
  EXPECT_TRUE(member_.paused);
  EXPECT_TRUE(answers_.empty());
  Pass(1);
  EXPECT_FALSE(member_.paused);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status, Code::kBusy);
  EXPECT_THAT(answers_[0].text, HasSubstr("has not answered"));
  EXPECT_EQ(disk_.locks, 0);
  // What was at the storage comes back.
  gate_.Paused(&member_);
  Store();
  EXPECT_EQ(answers_.size(), 1u);
}

TEST_F(ResizerTest, TheNextOneHasItsOwnTime) {
  Resize(2 << 20);
  Pass(3'000'000'000);
  gate_.Paused(&member_);
  Store();
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status, Code::kNotSupported);
  Resize(2 << 20);
  Pass(4'000'000'000);
  EXPECT_EQ(answers_.size(), 1u);
  Pass(1'000'000'000);
  EXPECT_EQ(answers_.size(), 2u);
}

TEST_F(ResizerTest, AStorageThatDoesNotGiveItsLockHoldsUpNobody) {
  hangs_ = true;
  Resize(2 << 20);
  EXPECT_FALSE(member_.paused);
  hangs_ = false;
  Store();
  EXPECT_TRUE(member_.paused);
}

TEST_F(ResizerTest, AStorageThatWasResizedIsTakenAsItIs) {
  disk_.size = 3 << 20;
  resizer_.LookAtSize();
  EXPECT_EQ(backend_->size(), 3u << 20);
  EXPECT_EQ(member_.sizes, std::vector<uint64_t>{3 << 20});
  resizer_.LookAtSize();
  EXPECT_EQ(member_.sizes.size(), 1u);
}

TEST_F(ResizerTest, WhoeverIsPausedIsToldOfASizeAndStaysPaused) {
  Resize(2 << 20);
  ASSERT_TRUE(member_.paused);
  disk_.size = 3 << 20;
  resizer_.LookAtSize();
  EXPECT_TRUE(member_.paused);
  EXPECT_EQ(member_.sizes, std::vector<uint64_t>{3 << 20});
}

}  // namespace
}  // namespace cloudblk::proxy
