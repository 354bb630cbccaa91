// SPDX-License-Identifier: GPL-2.0-or-later
//
// What passes between GnuTLS and the connection below it: TLS records, in buffers, so that one
// system call moves many of them.
#ifndef CLOUDBLK_BASE_TLS_WIRE_H_
#define CLOUDBLK_BASE_TLS_WIRE_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/transport.h"

namespace cloudblk {

// On one thread.
class TlsWire {
 public:
  explicit TlsWire(std::unique_ptr<Transport> below);

  Transport& below() { return *below_; }
  const Transport& below() const { return *below_; }

  // Reads once. Bytes; 0: the peer has ended its stream; -EAGAIN; another -errno.
  ssize_t Fill();
  // Whether the last Fill took all that there was.
  bool drained() const { return drained_; }
  // Whether there is a record, whole. Nothing less is given to GnuTLS: so no bytes of which nobody
  // knows are kept there.
  bool has_record() const { return begin_ != whole_; }
  // Whether anything came of the peer, and whether it looks like TLS. Precondition of the latter:
  // it came.
  bool heard() const { return heard_; }
  bool sounds_like_tls() const { return tls_; }

  // Sends what is ready. 0; -EAGAIN: go on when the connection is writable; another -errno.
  int Flush();
  bool sent_all() const { return sent_ == ready_.size(); }
  // Bytes that were ever made ready, and those of them that the connection took.
  uint64_t pushed() const { return flushed_ + ready_.size(); }
  uint64_t sent() const { return flushed_ + sent_; }

  // GnuTLS's two ends. Pull: bytes, 0 at the end of the stream, or -EAGAIN.
  ssize_t Pull(void* to, size_t size);
  void Push(const iovec* iov, int count);

 private:
  void Scan();

  const std::unique_ptr<Transport> below_;
  const std::unique_ptr<uint8_t[]> in_;
  size_t begin_ = 0;  // of what GnuTLS has not taken
  size_t whole_ = 0;  // of what is no whole record yet
  size_t end_ = 0;
  bool heard_ = false;
  bool tls_ = false;
  bool drained_ = false;
  bool ended_ = false;
  std::vector<uint8_t> ready_;
  size_t sent_ = 0;       // of `ready_`
  uint64_t flushed_ = 0;  // before `ready_`
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_WIRE_H_
