// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_transport.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bounce.h"
#include "base/tls_identity.h"
#include "base/tls_trouble.h"
#include "base/tls_wire.h"

namespace cloudblk {
namespace {

// Plain bytes that are made ready at a time, in records of the most that TLS has.
constexpr size_t kRecord = 16 << 10;
constexpr size_t kChunk = 8 * kRecord;

struct EndSession {
  void operator()(gnutls_session_t session) const { gnutls_deinit(session); }
};

class TlsTransport final : public Transport {
 public:
  TlsTransport(std::unique_ptr<Transport> below, std::shared_ptr<const TlsCredentials> credentials,
               std::string hostname, bool waits)
      : credentials_(std::move(credentials)),
        hostname_(std::move(hostname)),
        wire_(std::move(below)),
        waits_(waits) {}
  ~TlsTransport() override;

  // A GnuTLS error, or 0.
  int Init();

  int fd() const override { return wire_.below().fd(); }
  int ConnectResult() override { return wire_.below().ConnectResult(); }
  ssize_t Readv(const iovec* iov, int count) override;
  ssize_t Writev(const iovec* iov, int count) override;
  bool read_wants_write() const override;
  bool write_wants_read() const override;
  bool scatters() const override { return server(); }
  bool is_layered() const override { return true; }
  bool has_pending() const override;
  bool PeerGone() const override { return wire_.below().PeerGone(); }
  int StartTls() override {
    waits_ = false;
    return 0;
  }
  std::string trouble() const override { return trouble_.text; }
  PeerIdentity peer() const override { return handshaken_ ? identity_ : PeerIdentity{}; }

 private:
  static TlsTransport* Of(gnutls_transport_ptr_t what) { return static_cast<TlsTransport*>(what); }
  static ssize_t Pull(gnutls_transport_ptr_t self, void* to, size_t size);
  static ssize_t Push(gnutls_transport_ptr_t self, const giovec_t* iov, int count);
  static int Verify(gnutls_session_t session);

  bool server() const { return credentials_->is_server(); }
  bool failed() const { return trouble_.error != 0; }
  bool owes() const { return paid_ != records_.size(); }
  int Fail(TlsTrouble trouble);
  // Of a fatal GnuTLS error. Tells the peer.
  int FailTls(int error);
  int FailBelow(int error);
  // 0: the handshake is over, and what it left was sent. -EAGAIN, another -errno.
  int GetReady();
  int Handshake();
  int VerifyPeer();
  // Reads from below once, where GnuTLS wants more. 0, -EAGAIN, another -errno.
  int Fill();
  ssize_t ReadInto(const iovec& to, bool* drained);
  // Makes records of up to kChunk of the bytes that are left, and takes these off. 0; -EFAULT: of
  // none; another -errno. Precondition: !owes().
  int Seal();
  int SealGuests();
  int SealOwn();
  int SealRecords(const uint8_t* data, size_t bytes);
  int SendSealed();
  // The bytes, at most so many, whose records are sent.
  size_t Pay(size_t most);
  void FlushLast();
  // The next bytes to write, at most so many. Precondition: there are some.
  iovec Take(size_t most);
  // What the peer had to say before it closed the connection.
  void FindAlert();

  const std::shared_ptr<const TlsCredentials> credentials_;
  const std::string hostname_;
  TlsWire wire_;
  std::unique_ptr<std::remove_pointer_t<gnutls_session_t>, EndSession> session_;
  bool waits_;  // for StartTls
  bool handshaken_ = false;
  bool heard_ = false;   // data of the peer
  bool closed_ = false;  // by the peer's close_notify
  TlsTrouble trouble_;
  std::optional<TlsRefusal> refusal_;  // of VerifyPeer
  TlsNotes notes_;
  PeerIdentity identity_;
  // Records that Seal has made, from `paid_` on not all counted. A record's bytes count as moved as
  // soon as it is sent, since the peer may answer then, and not before: the caller offers them
  // again.
  struct Record {
    size_t bytes;
    uint64_t end;  // in what the wire sends
  };
  std::vector<Record> records_;
  size_t paid_ = 0;
  std::span<const iovec> left_;  // of what Writev was given, with `taken_` bytes of the first gone
  size_t taken_ = 0;
  std::vector<iovec> elements_;
  std::unique_ptr<Bounce> chunk_;      // of a client
  std::unique_ptr<uint8_t[]> record_;  // of a server
};

int TlsTransport::Init() {
  gnutls_session_t made = nullptr;
  const unsigned flags = (server() ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                         GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
  int error = gnutls_init(&made, flags);
  if (error != 0) return error;
  session_.reset(made);
  error = credentials_->Apply(made, &notes_);
  if (error != 0) return error;
  gnutls_transport_set_ptr(made, this);
  gnutls_transport_set_pull_function(made, Pull);
  gnutls_transport_set_vec_push_function(made, Push);
  // The handshake has a time-out of the caller's.
  gnutls_handshake_set_timeout(made, 0);
  if (!credentials_->is_psk() && credentials_->settings().verify_peer) {
    gnutls_session_set_verify_function(made, Verify);
  }
  Endpoint address;
  address.host = hostname_;
  if (!server() && !hostname_.empty() && HasName(address)) {
    error = gnutls_server_name_set(made, GNUTLS_NAME_DNS, hostname_.data(), hostname_.size());
  }
  return error;
}

TlsTransport::~TlsTransport() {
  if (!handshaken_ || failed()) return;
  gnutls_bye(session_.get(), GNUTLS_SHUT_WR);
  FlushLast();
}

// What the caller counts as not sent stays here, though the peer then hears no reason.
void TlsTransport::FlushLast() {
  if (!owes()) wire_.Flush();
}

ssize_t TlsTransport::Pull(gnutls_transport_ptr_t self, void* to, size_t size) {
  const ssize_t n = Of(self)->wire_.Pull(to, size);
  if (n >= 0) return n;
  gnutls_transport_set_errno(Of(self)->session_.get(), static_cast<int>(-n));
  return -1;
}

ssize_t TlsTransport::Push(gnutls_transport_ptr_t self, const giovec_t* iov, int count) {
  // They are the same (gnutls.h).
  const auto* elements = reinterpret_cast<const iovec*>(iov);
  Of(self)->wire_.Push(elements, count);
  ssize_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += static_cast<ssize_t>(elements[i].iov_len);
  return bytes;
}

int TlsTransport::Verify(gnutls_session_t session) {
  return Of(gnutls_transport_get_ptr(session))->VerifyPeer();
}

int TlsTransport::VerifyPeer() {
  unsigned status = 0;
  std::string hostname = hostname_;
  // GnuTLS wants memory that could be changed.
  std::string purpose = server() ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
  std::array<gnutls_typed_vdata_st, 2> wanted{};
  wanted[0].type = GNUTLS_DT_KEY_PURPOSE_OID;
  wanted[0].data = reinterpret_cast<unsigned char*>(purpose.data());
  wanted[1].type = GNUTLS_DT_DNS_HOSTNAME;
  wanted[1].data = reinterpret_cast<unsigned char*>(hostname.data());
  const int error =
      gnutls_certificate_verify_peers(session_.get(), wanted.data(), server() ? 1 : 2, &status);
  if (error == 0 && status == 0) return 0;
  if (error == GNUTLS_E_NO_CERTIFICATE_FOUND) return GNUTLS_E_CERTIFICATE_REQUIRED;
  refusal_ = DescribeRefusal(status, server(), hostname_);
  gnutls_alert_send(session_.get(), GNUTLS_AL_FATAL, refusal_->alert);
  return GNUTLS_E_CERTIFICATE_ERROR;
}

int TlsTransport::Fail(TlsTrouble trouble) {
  if (!failed()) trouble_ = std::move(trouble);
  return -trouble_.error;
}

int TlsTransport::FailTls(int error) {
  if (failed()) return -trouble_.error;
  TlsTrouble trouble;
  if (refusal_.has_value()) {
    // It was told already.
    trouble = {EACCES, refusal_->text};
  } else {
    trouble = DescribeTls(*credentials_, session_.get(), error, handshaken_);
    if (!notes_.unknown_identity.empty() && trouble.error == EACCES) {
      trouble.text = "keys.psk has no key of '" + notes_.unknown_identity +
                     "'; add one, or choose another identity";
    }
    const bool silent =
        error == GNUTLS_E_FATAL_ALERT_RECEIVED || error == GNUTLS_E_PREMATURE_TERMINATION;
    if (!silent) gnutls_alert_send_appropriate(session_.get(), error);
  }
  FlushLast();
  return Fail(std::move(trouble));
}

int TlsTransport::FailBelow(int error) {
  std::string text = wire_.below().trouble();
  if (text.empty()) text = std::strerror(error);
  return Fail({error, std::move(text)});
}

int TlsTransport::Fill() {
  const bool first = !wire_.heard();
  const ssize_t n = wire_.Fill();
  if (n == -EAGAIN) return -EAGAIN;
  if (n == -EPIPE || n == -ECONNRESET) return Fail(CutOff(server(), handshaken_));
  if (n < 0) return FailBelow(static_cast<int>(-n));
  if (n == 0 && !handshaken_) return Fail(CutOff(server(), false));
  if (first && n > 0 && !wire_.sounds_like_tls()) {
    // An alert, in case that it listens to one.
    gnutls_alert_send(session_.get(), GNUTLS_AL_FATAL, GNUTLS_A_UNEXPECTED_MESSAGE);
    wire_.Flush();
    return Fail(NotTls(server()));
  }
  return 0;
}

int TlsTransport::GetReady() {
  if (failed()) return -trouble_.error;
  if (!handshaken_) {
    const int error = Handshake();
    if (error != 0) return error;
  }
  if (wire_.sent_all() || owes()) return 0;
  // Of the handshake's end, or what GnuTLS answers by itself later.
  const int error = wire_.Flush();
  return error == 0 || error == -EAGAIN ? error : FailBelow(-error);
}

int TlsTransport::Handshake() {
  for (;;) {
    const int state = gnutls_handshake(session_.get());
    if (state == 0) {
      handshaken_ = true;
      if (server()) identity_ = IdentityOf(session_.get());
      return 0;
    }
    if (state != GNUTLS_E_AGAIN && gnutls_error_is_fatal(state) != 0) return FailTls(state);
    int error = wire_.Flush();
    if (error == -EAGAIN) return error;
    // Before it closed the connection the peer may have said why.
    if (error != 0 && error != -EPIPE && error != -ECONNRESET) return FailBelow(-error);
    if (state != GNUTLS_E_AGAIN || wire_.has_record()) continue;
    error = Fill();
    if (error != 0) return error;
  }
}

bool TlsTransport::read_wants_write() const { return !failed() && !wire_.sent_all() && !owes(); }

bool TlsTransport::write_wants_read() const {
  return !waits_ && !failed() && !handshaken_ && wire_.sent_all();
}

bool TlsTransport::has_pending() const {
  if (failed() || closed_ || !handshaken_) return false;
  return wire_.has_record() || gnutls_record_check_pending(session_.get()) != 0;
}

ssize_t TlsTransport::Readv(const iovec* iov, int count) {
  if (waits_) return wire_.below().Readv(iov, count);
  const int error = GetReady();
  if (error != 0) return error;
  if (closed_) return 0;
  size_t moved = 0;
  bool drained = false;
  for (int i = 0; i < count; ++i) {
    iovec to = iov[i];
    while (to.iov_len > 0) {
      // What comes later is for the next call.
      if (moved > 0 && drained && !has_pending()) return static_cast<ssize_t>(moved);
      const ssize_t n = ReadInto(to, &drained);
      if (n <= 0) return moved > 0 ? static_cast<ssize_t>(moved) : n;
      moved += static_cast<size_t>(n);
      to.iov_base = static_cast<uint8_t*>(to.iov_base) + n;
      to.iov_len -= static_cast<size_t>(n);
    }
  }
  return static_cast<ssize_t>(moved);
}

ssize_t TlsTransport::ReadInto(const iovec& to, bool* drained) {
  for (;;) {
    const ssize_t n = gnutls_record_recv(session_.get(), to.iov_base, to.iov_len);
    if (n > 0) {
      heard_ = true;
      return n;
    }
    if (n == 0) {
      closed_ = true;
      return 0;
    }
    const int state = static_cast<int>(n);
    if (state == GNUTLS_E_AGAIN) {
      if (!wire_.sent_all() && !owes()) {
        const int error = wire_.Flush();
        if (error != 0 && error != -EAGAIN) return FailBelow(-error);
      }
      if (wire_.has_record()) continue;
      const int error = Fill();
      if (error != 0) return error;
      *drained = wire_.drained();
      continue;
    }
    if (gnutls_error_is_fatal(state) != 0) return FailTls(state);
  }
}

ssize_t TlsTransport::Writev(const iovec* iov, int count) {
  if (waits_) return wire_.below().Writev(iov, count);
  int error = GetReady();
  if (error != 0) return error;
  left_ = {iov, static_cast<size_t>(count)};
  taken_ = 0;
  size_t moved = 0;
  if (owes()) {
    // They are the first bytes of what is offered, and are not taken again.
    size_t offered = 0;
    for (const iovec& element : left_) offered += element.iov_len;
    error = SendSealed();
    moved = Pay(offered);
    return moved > 0 ? static_cast<ssize_t>(moved) : error;
  }
  while (error == 0 && !left_.empty()) {
    error = Seal();
    if (error == 0) error = SendSealed();
    moved += Pay(kChunk);
  }
  // The next call says what is wrong.
  return moved > 0 ? static_cast<ssize_t>(moved) : error;
}

size_t TlsTransport::Pay(size_t most) {
  size_t paid = 0;
  while (owes() && records_[paid_].end <= wire_.sent() && paid < most) {
    const size_t part = std::min(records_[paid_].bytes, most - paid);
    records_[paid_].bytes -= part;
    paid += part;
    if (records_[paid_].bytes == 0) ++paid_;
  }
  if (!owes()) {
    records_.clear();
    paid_ = 0;
  }
  return paid;
}

// 0, -EAGAIN, or what ended the connection.
int TlsTransport::SendSealed() {
  const int error = wire_.Flush();
  if (error == 0 || error == -EAGAIN) return error;
  FindAlert();
  return failed() ? -trouble_.error : FailBelow(-error);
}

iovec TlsTransport::Take(size_t most) {
  const iovec& element = left_.front();
  const size_t bytes = std::min(element.iov_len - taken_, most);
  const iovec taken{static_cast<uint8_t*>(element.iov_base) + taken_, bytes};
  taken_ += bytes;
  if (taken_ == element.iov_len) {
    left_ = left_.subspan(1);
    taken_ = 0;
  }
  return taken;
}

int TlsTransport::Seal() { return server() ? SealOwn() : SealGuests(); }

int TlsTransport::SealGuests() {
  if (chunk_ == nullptr) chunk_ = std::make_unique<Bounce>(kChunk);
  elements_.clear();
  size_t bytes = 0;
  while (!left_.empty() && bytes < kChunk) {
    elements_.push_back(Take(kChunk - bytes));
    bytes += elements_.back().iov_len;
  }
  if (chunk_->Fetch(0, elements_) < elements_.size()) return -EFAULT;
  for (size_t at = 0; at < bytes; at += kRecord) {
    const int error = SealRecords(chunk_->data() + at, std::min(kRecord, bytes - at));
    if (error != 0) return error;
  }
  return 0;
}

// Of memory that is the process's own: what fills a record is not copied for it.
int TlsTransport::SealOwn() {
  if (record_ == nullptr) record_ = std::make_unique_for_overwrite<uint8_t[]>(kRecord);
  size_t bytes = 0;
  size_t staged = 0;
  const auto seal_staged = [&] {
    return staged == 0 ? 0 : SealRecords(record_.get(), std::exchange(staged, 0));
  };
  while (!left_.empty() && bytes < kChunk) {
    const iovec part = Take(std::min(kRecord - staged, kChunk - bytes));
    bytes += part.iov_len;
    int error = 0;
    if (part.iov_len == kRecord) {
      error = SealRecords(static_cast<const uint8_t*>(part.iov_base), kRecord);
    } else {
      std::memcpy(record_.get() + staged, part.iov_base, part.iov_len);
      staged += part.iov_len;
      if (staged == kRecord) error = seal_staged();
    }
    if (error != 0) return error;
  }
  return seal_staged();
}

// One record, or more where the peer takes smaller ones only (RFC 8449).
int TlsTransport::SealRecords(const uint8_t* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = gnutls_record_send(session_.get(), data, bytes);
    if (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_AGAIN) continue;
    if (n < 0) return FailTls(static_cast<int>(n));
    records_.push_back({static_cast<size_t>(n), wire_.pushed()});
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  return 0;
}

// A server that refuses a client says so after the client's handshake is over.
void TlsTransport::FindAlert() {
  if (heard_) return;
  std::array<uint8_t, 1 << 10> unread;
  const iovec to{unread.data(), unread.size()};
  bool drained = false;
  while (ReadInto(to, &drained) > 0) {
  }
}

}  // namespace

Result<std::unique_ptr<Transport>> MakeTlsTransport(
    std::unique_ptr<Transport> below, std::shared_ptr<const TlsCredentials> credentials,
    const std::string& hostname, bool waits) {
  auto made =
      std::make_unique<TlsTransport>(std::move(below), std::move(credentials), hostname, waits);
  const int error = made->Init();
  if (error != 0)
    return Status(EINVAL, std::string("TLS cannot be set up: ") + gnutls_strerror(error));
  return std::unique_ptr<Transport>(std::move(made));
}

}  // namespace cloudblk
