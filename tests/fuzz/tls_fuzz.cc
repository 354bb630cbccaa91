// SPDX-License-Identifier: GPL-2.0-or-later
//
// The TLS transport, both sides of it, with somebody between them who changes, adds, takes away and
// holds back bytes, and who speaks in the place of either. What one side is given has to be the
// beginning of what the other has said and counts as moved, whatever happens, and all of it if
// nothing was changed.
// Keys of a handshake are drawn anew each time, so a finding may need its input several times.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/tls_transport.h"
#include "tests/fuzz/check.h"
#include "tests/support/cpp/certificates.h"

namespace cloudblk::testing {
namespace {

// One direction of a connection.
struct Pipe {
  std::string sent;     // and not passed on yet
  std::string arrived;  // and not read yet
  size_t room = 0;      // bytes that are taken before it is full
  bool ended = false;   // nothing comes behind `arrived`
};

// An end of two pipes.
class End final : public Transport {
 public:
  End(Pipe* out, Pipe* in) : out_(out), in_(in) {}
  ~End() override { out_->ended = true; }

  int fd() const override { return -1; }
  int ConnectResult() override { return 0; }
  bool PeerGone() const override { return in_->ended; }
  ssize_t Readv(const iovec* iov, int) override {
    const size_t n = std::min(iov->iov_len, in_->arrived.size());
    if (n == 0) return in_->ended ? 0 : -EAGAIN;
    std::memcpy(iov->iov_base, in_->arrived.data(), n);
    in_->arrived.erase(0, n);
    return static_cast<ssize_t>(n);
  }
  ssize_t Writev(const iovec* iov, int) override {
    if (in_->ended) return -EPIPE;
    const size_t n = std::min(iov->iov_len, out_->room);
    if (n == 0) return -EAGAIN;
    out_->sent.append(static_cast<const char*>(iov->iov_base), n);
    out_->room -= n;
    return static_cast<ssize_t>(n);
  }

 private:
  Pipe* const out_;
  Pipe* const in_;
};

struct Side {
  std::unique_ptr<Transport> transport;
  std::string said;  // all that it has to say
  size_t moved = 0;  // of `said`
  size_t heard = 0;  // of what the peer has said
  // Of `said`, what it was given to write at some time. A record may hold all of it, so that more
  // than what has moved is heard if less is offered later.
  size_t offered = 0;
  bool offers_less = false;
  const Side* peer = nullptr;
  int error = 0;
  bool ended = false;

  void Say(size_t bytes) {
    for (; bytes > 0; --bytes)
      said.push_back(static_cast<char>(said.size() * 31 + said.size() / 251));
  }
  void Write(size_t most) {
    if (transport == nullptr || error != 0 || moved == said.size()) return;
    // In two elements, as a header and its data are.
    const size_t bytes = std::min(most, said.size() - moved);
    if (bytes == 0) return;
    offers_less |= moved + bytes < offered;
    offered = std::max(offered, moved + bytes);
    std::vector<iovec> elements = {{said.data() + moved, bytes}};
    if (bytes > 3) {
      elements = {{said.data() + moved, bytes / 3},
                  {said.data() + moved + bytes / 3, bytes - bytes / 3}};
    }
    const ssize_t n = transport->Writev(elements.data(), static_cast<int>(elements.size()));
    Check(n != 0 && n <= static_cast<ssize_t>(bytes));
    if (n > 0) moved += static_cast<size_t>(n);
    if (n < 0 && n != -EAGAIN) Fail(static_cast<int>(-n));
  }
  void Read(size_t most) {
    if (transport == nullptr || error != 0 || most == 0) return;
    static char to[1 << 16];
    most = std::min(most, sizeof(to));
    iovec elements[] = {{to, most}, {}};
    if (transport->scatters() && most > 1) {
      elements[0] = {to, most / 2};
      elements[1] = {to + most / 2, most - most / 2};
    }
    const ssize_t n = transport->Readv(elements, elements[1].iov_len != 0 ? 2 : 1);
    Check(n <= static_cast<ssize_t>(most));
    if (n > 0) {
      const auto bytes = static_cast<size_t>(n);
      Check(!ended && heard + bytes <= (peer->offers_less ? peer->offered : peer->moved));
      Check(std::memcmp(to, peer->said.data() + heard, bytes) == 0);
      heard += bytes;
    }
    if (n == 0) ended = true;
    if (n < 0 && n != -EAGAIN) Fail(static_cast<int>(-n));
    if (n == -EAGAIN) Check(!transport->has_pending());
  }
  void Fail(int number) {
    error = number;
    Check(error == ECONNRESET || error == ECONNABORTED || error == EACCES || error == EPROTO ||
          error == EPIPE);
    Check(!transport->trouble().empty());
    Check(!transport->has_pending());
  }
};

struct Files {
  Files() {
    WriteKey(psk, "alice", 1);
    const Authority ca;
    ca.Issue(x509, {.common_name = "disk"});
    ca.Issue(x509, {.common_name = "host", .for_server = false});
  }
  TlsFolder psk;
  TlsFolder x509;
};

std::shared_ptr<const TlsCredentials> Get(bool psk, TlsSettings::Role role) {
  static const Files files;
  static const auto load = [](bool keys, TlsSettings::Role of) {
    return MustLoad(keys ? PskOf(files.psk, of) : X509Of(files.x509, of));
  };
  static const std::shared_ptr<const TlsCredentials> all[] = {
      load(false, TlsSettings::Role::kClient), load(false, TlsSettings::Role::kServer),
      load(true, TlsSettings::Role::kClient), load(true, TlsSettings::Role::kServer)};
  return all[(psk ? 2 : 0) + (role == TlsSettings::Role::kServer ? 1 : 0)];
}

// Somebody on the way.
class Between {
 public:
  bool changed() const { return changed_; }

  void Pass(Pipe* pipe, size_t most) {
    const size_t n = std::min(most, pipe->sent.size());
    pipe->arrived += pipe->sent.substr(0, n);
    pipe->sent.erase(0, n);
  }
  void Change(FuzzedDataProvider* in, Pipe* pipe) {
    std::string& bytes = pipe->sent;
    const size_t at = bytes.empty() ? 0 : in->ConsumeIntegral<uint16_t>() % bytes.size();
    switch (in->ConsumeIntegralInRange<int>(0, 3)) {
      case 0: {
        const auto flipped = in->ConsumeIntegral<uint8_t>();
        if (bytes.empty() || flipped == 0) return;
        bytes[at] = static_cast<char>(bytes[at] ^ flipped);
        break;
      }
      case 1: {
        const std::string more = SomeBytes(in);
        if (more.empty()) return;
        bytes.insert(at, more);
        break;
      }
      case 2:
        if (bytes.empty()) return;
        bytes.erase(at, 1 + in->ConsumeIntegral<uint8_t>());
        break;
      default:
        if (bytes.empty()) return;
        // Said twice.
        bytes += bytes.substr(at);
    }
    changed_ = true;
  }
  void End(Pipe* pipe) {
    pipe->ended = true;
    changed_ = true;
  }

 private:
  bool changed_ = false;
};

void Run(FuzzedDataProvider* in) {
  const bool psk = in->ConsumeIntegral<uint8_t>() < 224;
  Pipe up, down;
  up.room = down.room = in->ConsumeBool() ? 1 << 20 : 0;
  Side client, server;
  client.peer = &server;
  server.peer = &client;
  client.transport = std::move(MakeTlsTransport(std::make_unique<End>(&up, &down),
                                                Get(psk, TlsSettings::Role::kClient), "disk")
                                   .value());
  server.transport = std::move(
      MakeTlsTransport(std::make_unique<End>(&down, &up), Get(psk, TlsSettings::Role::kServer), "")
          .value());
  Between between;
  bool closed = false;
  while (in->remaining_bytes() > 0) {
    const bool first = in->ConsumeBool();
    Side& side = first ? client : server;
    Pipe& pipe = first ? up : down;
    switch (in->ConsumeIntegralInRange<int>(0, 15)) {
      case 0:
        side.Say(Small(in, in->ConsumeIntegral<uint8_t>() * 80u));
        break;
      case 1:
      case 2:
        side.Write(1 + in->ConsumeIntegral<uint16_t>());
        break;
      case 3:
      case 4:
        side.Read(1 + in->ConsumeIntegral<uint16_t>());
        break;
      case 5:
        between.Pass(&pipe, in->ConsumeIntegral<uint8_t>());
        break;
      case 6:
      case 7:
        between.Pass(&pipe, SIZE_MAX);
        break;
      case 8:
        pipe.room += in->ConsumeIntegral<uint16_t>();
        break;
      case 9:
        if (in->ConsumeIntegral<uint8_t>() >= 160) between.Change(in, &pipe);
        break;
      case 10:
        if (in->ConsumeIntegral<uint8_t>() >= 240) between.End(&pipe);
        break;
      case 11:
        if (in->ConsumeIntegral<uint8_t>() < 240) break;
        side.transport.reset();
        closed = true;
        break;
      default:
        // A round of all of it, which is what gets a handshake done.
        for (int i = 0; i < 3; ++i) {
          client.Write(SIZE_MAX);
          server.Write(SIZE_MAX);
          between.Pass(&up, SIZE_MAX);
          between.Pass(&down, SIZE_MAX);
          client.Read(1 << 16);
          server.Read(1 << 16);
        }
    }
  }
  if (between.changed() || closed) return;
  up.room = down.room = SIZE_MAX / 2;
  for (int i = 0; i < 4 || client.heard + server.heard < client.said.size() + server.said.size();
       ++i) {
    Check(i < 10'000);
    client.Write(SIZE_MAX);
    server.Write(SIZE_MAX);
    between.Pass(&up, SIZE_MAX);
    between.Pass(&down, SIZE_MAX);
    client.Read(1 << 16);
    server.Read(1 << 16);
  }
  Check(client.error == 0 && server.error == 0);
  Check(client.heard == server.said.size() && server.heard == client.said.size());
}

// Whoever speaks to one side is no TLS, or not of ours.
void Speak(FuzzedDataProvider* in) {
  const bool is_server = in->ConsumeBool();
  const bool psk = in->ConsumeBool();
  Pipe out, stream;
  out.room = 1 << 20;
  Side side, nobody;
  side.peer = &nobody;
  side.transport = std::move(
      MakeTlsTransport(
          std::make_unique<End>(&out, &stream),
          Get(psk, is_server ? TlsSettings::Role::kServer : TlsSettings::Role::kClient), "disk")
          .value());
  side.Say(100);
  while (in->remaining_bytes() > 0) {
    stream.arrived += SomeBytes(in);
    side.Read(1 + in->ConsumeIntegral<uint8_t>());
    side.Write(SIZE_MAX);
    Check(side.heard == 0);
  }
}

}  // namespace
}  // namespace cloudblk::testing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  if (in.ConsumeIntegral<uint8_t>() < 208) {
    cloudblk::testing::Run(&in);
  } else {
    cloudblk::testing::Speak(&in);
  }
  return 0;
}
