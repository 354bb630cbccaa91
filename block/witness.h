// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_WITNESS_H_
#define CLOUDBLK_BLOCK_WITNESS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

namespace cloudblk {

// Bytes [offset, offset + length) of the volume. digest: of their content.
struct KnownBlock {
  uint64_t offset = 0;
  uint32_t length = 0;
  uint64_t digest = 0;
};

// By what an export is known again, where its server tells nothing of itself: a block that was
// written, was made durable by a FLUSH, was read back since and not changed. A server that has lost
// what was flushed, as it keeps all in memory, or serves other data under the same name, does not
// have it.
//
// Of a session, for all its channels. NoteChange and known: any thread; the others: the channel's.
class Witness {
 public:
  explicit Witness(uint32_t channels)
      : channels_(channels), channel_(std::make_unique<Channel[]>(channels)) {}

  static constexpr uint32_t kMostLength = 4096;
  // Of a block that tells nothing, as it is all zeros: so are the blocks of an empty volume.
  static constexpr uint64_t kNoDigest = 0;
  static uint64_t DigestOf(std::span<const uint8_t> data);

  // Bytes [begin, end) are about to be changed, were changed, or are never known to have been. Who
  // changes data says so before it is sent, and again when that is done or lost: so what is under
  // way when a block is chosen is seen in the end.
  void NoteChange(uint64_t begin, uint64_t end) {
    const auto meets = [&](uint64_t at) { return at < end && begin < at + kMostLength; };
    // In the order in which a block moves on: one that does just now is seen here or there.
    for (uint32_t i = 0; i < channels_; ++i) {
      uint64_t at = channel_[i].written.load();
      if (meets(at)) channel_[i].written.compare_exchange_strong(at, kNowhere);
      at = channel_[i].offered.load();
      if (meets(at)) channel_[i].offered.compare_exchange_strong(at, kNowhere);
    }
    if (meets(at_.load())) Forget();
  }
  // Nothing is known any more.
  void Clear() { NoteChange(0, UINT64_MAX); }

  // A WRITE of the channel is done.
  void NoteWritten(uint32_t channel, uint64_t begin, uint64_t end);
  // A FLUSH of the channel is about to be sent, which covers it: it is the channel's candidate
  // then. False: there is no such WRITE.
  bool Offer(uint32_t channel);
  // Whether the channel has one.
  bool offers(uint32_t channel) const { return channel_[channel].offered.load() != kNowhere; }
  // That FLUSH is done, or is not going to be.
  void NoteFlushed(uint32_t channel, bool done);

  // What the channel is to read back: its candidate, if it was flushed and no block is known.
  std::optional<KnownBlock> Choose(uint32_t channel);
  // The channel has read it. Does nothing if it was changed meanwhile.
  void Take(uint32_t channel, const KnownBlock& block);
  // It is not going to bring what it was to read.
  void GiveUp(uint32_t channel);

  // What a new connection has to find.
  std::optional<KnownBlock> known() const;

 private:
  static constexpr uint64_t kNowhere = UINT64_MAX - kMostLength;

  struct Channel {
    // Where they begin; any thread.
    std::atomic<uint64_t> written{kNowhere};
    std::atomic<uint64_t> offered{kNowhere};
    // The channel's own.
    uint32_t written_length = 0;
    uint32_t offered_length = 0;
    bool flushed = false;  // what is offered
  };

  void Forget();

  const uint32_t channels_;
  const std::unique_ptr<Channel[]> channel_;
  // Where block_ begins; kNowhere: there is none. Written under mutex_.
  std::atomic<uint64_t> at_{kNowhere};
  mutable std::mutex mutex_;
  // Under mutex_.
  KnownBlock block_;
  bool reading_ = false;
  uint32_t reader_ = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_WITNESS_H_
