// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/frame_reader.h"

#include <limits.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace cloudblk::proxy {

FrameReader::Outcome FrameReader::Stop(wire::DecodeError error) {
  stopped_ = true;
  if (error != wire::DecodeError::kOk) sink_->OnBadFrame(error);
  return Outcome::kStopped;
}

bool FrameReader::EnsureStaging(uint32_t capacity) {
  if (staging_.capacity >= capacity) {
    if (begin_ != 0 && staging_.capacity - begin_ < capacity) {
      memmove(staging_.data, staging_.data + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    return true;
  }
  Buffer larger = pool_->Get(capacity);
  if (larger.data == nullptr) return false;
  if (end_ > begin_) memcpy(larger.data, staging_.data + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  pool_->Put(&staging_);
  staging_ = larger;
  return true;
}

FrameReader::Outcome FrameReader::End(int error) {
  ended_ = true;
  error_ = error;
  return Outcome::kEnd;
}

FrameReader::Outcome FrameReader::WhyNot() const {
  if (ended_) return Outcome::kEnd;
  return stopped_ ? Outcome::kStopped : Outcome::kWaiting;
}

FrameReader::Outcome FrameReader::GoOn() {
  waiting_ = false;
  return Parse() ? Outcome::kMore : WhyNot();
}

FrameReader::Outcome FrameReader::Read(Transport* transport) {
  if (stopped_ || ended_ || waiting_) return WhyNot();
  if (!EnsureStaging(kStaging)) return End(ENOMEM);
  vector_.clear();
  size_t wanted = 0;
  if (in_payload_) {
    const size_t count = std::min<size_t>(pieces_.size() - filled_, IOV_MAX - 1);
    vector_.assign(pieces_.begin() + static_cast<ptrdiff_t>(filled_),
                   pieces_.begin() + static_cast<ptrdiff_t>(filled_ + count));
    for (const iovec& piece : vector_) wanted += piece.iov_len;
  }
  const size_t payload = wanted;
  // Behind only a part of the payload there is more payload, not headers.
  if (!in_payload_ || filled_ + vector_.size() == pieces_.size()) {
    const size_t space = staging_.capacity - end_;
    vector_.push_back({staging_.data + end_, space});
    wanted += space;
  }
  const int count = transport->scatters() ? static_cast<int>(vector_.size()) : 1;
  const ssize_t got = transport->Readv(vector_.data(), count);
  if (got == -EAGAIN) {
    if (begin_ == end_) pool_->Put(&staging_);
    return Outcome::kDrained;
  }
  if (got <= 0) return End(static_cast<int>(-got));
  const auto bytes = static_cast<size_t>(got);
  bytes_ += bytes;
  if (in_payload_) TakePayload(std::min(bytes, payload));
  end_ += static_cast<uint32_t>(bytes - std::min(bytes, payload));
  if (!Parse()) return WhyNot();
  return bytes < wanted && !transport->has_pending() ? Outcome::kDrained : Outcome::kMore;
}

// `bytes` more of the payload stand where they belong.
void FrameReader::TakePayload(size_t bytes) {
  while (bytes > 0) {
    assert(filled_ < pieces_.size());
    iovec& piece = pieces_[filled_];
    const size_t taken = std::min(bytes, piece.iov_len);
    piece.iov_base = static_cast<uint8_t*>(piece.iov_base) + taken;
    piece.iov_len -= taken;
    bytes -= taken;
    if (piece.iov_len == 0) ++filled_;
  }
}

bool FrameReader::Report(FrameSink::Next next) {
  if (next == FrameSink::Next::kGo) return true;
  (next == FrameSink::Next::kWait ? waiting_ : stopped_) = true;
  return false;
}

bool FrameReader::ReportPieces() {
  const bool complete = filled_ == pieces_.size();
  if (filled_ == reported_ && !complete) return true;
  reported_ = filled_;
  if (complete) in_payload_ = false;
  return Report(sink_->OnPieces(filled_, complete));
}

bool FrameReader::Parse() {
  bool enough = true;
  bool go = true;
  while (go && enough) {
    if (in_payload_) {
      go = ConsumePayload();
      if (!go || in_payload_) break;
    }
    go = ParseHeaders(&enough);
  }
  // An idle connection holds no buffer.
  if (begin_ == end_) {
    begin_ = end_ = 0;
    pool_->Put(&staging_);
  }
  return go;
}

bool FrameReader::ConsumePayload() {
  while (begin_ < end_ && filled_ < pieces_.size()) {
    const iovec& piece = pieces_[filled_];
    const size_t bytes = std::min<size_t>(piece.iov_len, end_ - begin_);
    memcpy(piece.iov_base, staging_.data + begin_, bytes);
    begin_ += static_cast<uint32_t>(bytes);
    TakePayload(bytes);
  }
  return ReportPieces();
}

bool FrameReader::ParseHeaders(bool* enough) {
  const auto need = [&](uint32_t bytes) {
    *enough = end_ - begin_ >= bytes;
    // Room for all of it, so that the next read can complete it.
    if (*enough || EnsureStaging(std::max(bytes, kStaging))) return true;
    End(ENOMEM);
    return false;
  };
  if (!need(wire::kFrameHeaderSize)) return false;
  if (!*enough) return true;
  wire::FrameHeader header;
  wire::DecodeError error = wire::DecodeFrameHeader(
      std::span(staging_.data + begin_, wire::kFrameHeaderSize), limits_, &header);
  if (error != wire::DecodeError::kOk) return Stop(error), false;
  const bool batch =
      header.type == wire::FrameType::kRequest || header.type == wire::FrameType::kReply;
  const uint32_t staged = header.header_length + (batch ? 0 : header.payload_length);
  if (!need(static_cast<uint32_t>(wire::kFrameHeaderSize) + staged)) return false;
  if (!*enough) return true;
  const uint8_t* at = staging_.data + begin_ + wire::kFrameHeaderSize;
  const std::span section(at, header.header_length);
  error = wire::CheckHeaderSection(header, section);
  if (error != wire::DecodeError::kOk) return Stop(error), false;
  const auto length = static_cast<uint32_t>(wire::kFrameHeaderSize) + staged;
  if (!batch) {
    begin_ += length;
    ++frames_;
    const std::span payload(at + header.header_length, header.payload_length);
    if (sink_->OnMessage(header, section, payload)) return true;
    stopped_ = true;
    return false;
  }
  pieces_.clear();
  filled_ = reported_ = 0;
  if (!Report(sink_->OnBatch(header, section, &pieces_))) return false;
  begin_ += length;
  ++frames_;
  in_payload_ = true;
  // What comes before the first payload need not wait for it.
  return pieces_.empty() || Report(sink_->OnPieces(0, false));
}

}  // namespace cloudblk::proxy
