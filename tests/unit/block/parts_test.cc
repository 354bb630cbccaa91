// SPDX-License-Identifier: GPL-2.0-or-later
//
// The small parts of the channel, each by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "block/outbox.h"
#include "block/overlap.h"
#include "block/session_state.h"
#include "block/sg_list.h"
#include "block/tag_table.h"

namespace cloudblk {
namespace {

using ::testing::ElementsAre;

class SgCursorTest : public ::testing::Test {
 protected:
  std::string a = "abc", b = "d", c = "efgh";
  std::vector<iovec> list = {{a.data(), 3}, {b.data(), 1}, {c.data(), 4}};
};

TEST_F(SgCursorTest, AdvancesAcrossElements) {
  SgCursor cursor(list, 2);
  cursor.Advance(3);
  iovec out[2];
  uint64_t described = 0;
  EXPECT_EQ(cursor.Describe(2, out, &described), 1u);
  EXPECT_EQ(out[0].iov_base, c.data() + 1);
}

TEST_F(SgCursorTest, DescribesNoMoreThanAskedFor) {
  iovec out[2];
  uint64_t described = 0;
  const SgCursor cursor(list, 1);
  EXPECT_EQ(cursor.Describe(100, out, &described), 2u);
  EXPECT_EQ(described, 3u);
  EXPECT_EQ(out[0].iov_base, a.data() + 1);
  EXPECT_EQ(out[0].iov_len, 2u);
  EXPECT_EQ(cursor.Describe(1, out, &described), 1u);
  EXPECT_EQ(out[0].iov_len, 1u);
  EXPECT_EQ(cursor.Describe(0, out, &described), 0u);
}

TEST(TagTable, ATagIsGoodForOneSendingOfOnePiece) {
  TagTable table;
  Request request;
  Piece* piece = table.Take(&request, 0, 512);
  EXPECT_EQ(request.pieces, 1u);
  table.Send(piece);
  const uint64_t first = piece->tag;
  EXPECT_EQ(table.Find(first), piece);
  EXPECT_EQ(table.Find(first + 1), nullptr);
  EXPECT_EQ(table.Find(first + (1ull << TagTable::kSlotBits)), nullptr);
  piece->state = Piece::State::kAnswering;
  EXPECT_EQ(table.Find(first), nullptr);
  piece->state = Piece::State::kQueued;
  table.Send(piece);
  EXPECT_EQ(table.Find(first), nullptr);
  EXPECT_EQ(table.Find(piece->tag), piece);
  const uint64_t second = piece->tag;
  table.Give(piece);
  EXPECT_EQ(request.pieces, 0u);
  EXPECT_EQ(table.Find(second), nullptr);
  EXPECT_EQ(table.Take(&request, 0, 1), piece) << "slots are used again";
  EXPECT_EQ(table.Find(second), nullptr);
}

Request WriteOf(uint64_t offset, uint64_t length) {
  Request request;
  request.operation = Operation::kWrite;
  request.offset = offset;
  request.length = length;
  return request;
}

TEST(OverlapGuard, TouchingIsNotOverlapping) {
  OverlapGuard guard;
  Request a = WriteOf(0, 512), b = WriteOf(512, 512), c = WriteOf(511, 1), d = WriteOf(2048, 1);
  EXPECT_TRUE(guard.Admit(&a));
  EXPECT_TRUE(guard.Admit(&b));
  EXPECT_FALSE(guard.Admit(&c));
  EXPECT_TRUE(guard.Admit(&d));
}

TEST(OverlapGuard, KeepsTheOrderAmongThoseThatWait) {
  OverlapGuard guard;
  Request a = WriteOf(0, 100), b = WriteOf(50, 100), c = WriteOf(120, 100), d = WriteOf(300, 10);
  Request e = WriteOf(0, 50);
  ASSERT_TRUE(guard.Admit(&a));
  ASSERT_FALSE(guard.Admit(&b));
  ASSERT_FALSE(guard.Admit(&c)) << "overlaps only one that waits, and must not overtake it";
  ASSERT_TRUE(guard.Admit(&d));
  ASSERT_FALSE(guard.Admit(&e));
  std::vector<Request*> released;
  const auto release = [&](Request* request) { released.push_back(request); };
  guard.Complete(d, release);
  EXPECT_TRUE(released.empty());
  guard.Complete(a, release);
  EXPECT_THAT(released, ElementsAre(&b, &e));
  guard.Complete(b, release);
  EXPECT_THAT(released, ElementsAre(&b, &e, &c));
}

TEST(OverlapGuard, RangesCountEach) {
  OverlapGuard guard;
  Request ranges;
  ranges.operation = Operation::kDiscard;
  ranges.ranges = {{0, 10, 0}, {100, 10, 0}};
  Request a = WriteOf(50, 10), b = WriteOf(105, 1);
  ASSERT_TRUE(guard.Admit(&ranges));
  EXPECT_TRUE(guard.Admit(&a));
  EXPECT_FALSE(guard.Admit(&b));
  int released = 0;
  guard.Complete(ranges, [&](Request*) { ++released; });
  EXPECT_EQ(released, 1);
}

TEST(OverlapGuard, RangesWaitForWhatAnyOfThemOverlaps) {
  OverlapGuard guard;
  Request running = WriteOf(105, 1);
  Request ranges;
  ranges.operation = Operation::kDiscard;
  ranges.ranges = {{0, 10, 0}, {100, 10, 0}};
  Request behind = WriteOf(5, 1);
  ASSERT_TRUE(guard.Admit(&running));
  EXPECT_FALSE(guard.Admit(&ranges));
  EXPECT_FALSE(guard.Admit(&behind));
  std::vector<Request*> released;
  guard.Complete(running, [&](Request* request) { released.push_back(request); });
  EXPECT_THAT(released, ElementsAre(&ranges));
}

TEST(SessionState, FlushesMayBeAnsweredInAnyOrder) {
  SessionState state{SessionConfig{}};
  state.NoteWrite(0);
  const uint64_t first = state.FlushMark();
  state.NoteWrite(0);
  state.NoteFlush(state.FlushMark());
  EXPECT_FALSE(state.unflushed());
  state.NoteFlush(first);
  EXPECT_FALSE(state.unflushed());
}

TEST(SessionState, AClaimAfterAReleaseWithoutAnAnswerIsTriedBothWays) {
  SessionState state{SessionConfig{}};
  state.BeginRelease();
  state.NoteReleased(false);
  state.BeginClaim();
  EXPECT_EQ(state.claim(), ClaimMode::kTryToken);
  EXPECT_EQ(state.epoch(), 2u);
  for (const Refusal refusal : {Refusal::kBadToken, Refusal::kBusy, Refusal::kStale}) {
    EXPECT_TRUE(state.ClaimRefused(ClaimMode::kTryToken, refusal));
    EXPECT_EQ(state.claim(), ClaimMode::kTryNone) << static_cast<int>(refusal);
    EXPECT_EQ(state.epoch(), 1u);
    EXPECT_TRUE(state.ClaimRefused(ClaimMode::kTryNone, refusal));
    EXPECT_EQ(state.claim(), ClaimMode::kTryToken) << static_cast<int>(refusal);
  }
  EXPECT_FALSE(state.ClaimRefused(ClaimMode::kTryToken, Refusal::kLost));
  EXPECT_TRUE(state.ClaimRefused(ClaimMode::kTryToken, Refusal::kBadToken));
  state.ClaimGranted(ClaimMode::kTryNone);
  EXPECT_EQ(state.claim(), ClaimMode::kNone);
  EXPECT_FALSE(state.claim_unsure());
  EXPECT_EQ(state.epoch(), 1u);
}

TEST(SessionState, AFlushCoversWhatWasWrittenBeforeItWasSent) {
  SessionState state{SessionConfig{}};
  VolumeInfo volume;
  volume.generation = 1;
  state.SetVolume(volume, {});
  EXPECT_FALSE(state.SetGeneration(2)) << "nothing was written";
  state.NoteWrite(2);
  const uint64_t mark = state.FlushMark();
  state.NoteWrite(2);
  state.NoteFlush(mark);
  EXPECT_FALSE(state.SetGeneration(2)) << "no change";
  const Since under_way{state.Now().told, mark};
  EXPECT_TRUE(state.SetGeneration(3));
  EXPECT_TRUE(state.FlushFails(under_way));
  const auto fails = [&] { return state.FlushFails(state.Now()); };
  EXPECT_TRUE(fails()) << "only a flush from before the last write has failed";
  EXPECT_TRUE(state.FlushFails(under_way)) << "was under way then";
  EXPECT_FALSE(fails());
  const Since before = state.Now();
  state.NoteWrite(2);
  EXPECT_TRUE(state.FlushFails(before));
  EXPECT_TRUE(fails()) << "answered by a connection from before the loss";
  EXPECT_FALSE(fails());
}

TEST(Outbox, JoinsWhatLiesTogether) {
  Outbox outbox;
  uint8_t* a = outbox.Reserve(10);
  uint8_t* b = outbox.Reserve(20);
  char data[5];
  outbox.Append(a, 10);
  outbox.Append(b, 20);
  outbox.Append(data, 5);
  EXPECT_EQ(outbox.elements(), 2u);
  EXPECT_EQ(outbox.appended(), 35u);
  outbox.Clear();
  EXPECT_TRUE(outbox.empty());
  EXPECT_EQ(outbox.free(), Outbox::kHeaderRoom);
}

}  // namespace
}  // namespace cloudblk
