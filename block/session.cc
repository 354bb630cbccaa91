// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "block/uri.h"

namespace cloudblk {
namespace {

// Whether asking again soon may end otherwise.
bool MayPass(const ConnectionFailure& failure) {
  if (failure.refused) {
    return (failure.error == EBUSY && failure.retry_ms > 0) || failure.error == ECONNREFUSED;
  }
  return failure.error == ETIMEDOUT || failure.error == ECONNRESET || failure.error == EPIPE ||
         failure.error == EAGAIN;
}

// Whoever waits for the CLOSE_REPLY.
class Closer final : public ChannelObserver {
 public:
  bool closed() const { return closed_; }
  void OnReady(Channel*) override {}
  void OnFailure(Channel*, const ConnectionFailure&) override {}
  void OnClosed(Channel*) override { closed_ = true; }

 private:
  bool closed_ = false;
};

Result<std::vector<SocketAddress>> ResolveAll(const std::vector<Endpoint>& endpoints) {
  std::vector<SocketAddress> all;
  Status failed;
  for (const Endpoint& endpoint : endpoints) {
    Result<std::vector<SocketAddress>> found = Resolve(endpoint);
    if (found.ok()) {
      all.insert(all.end(), found->begin(), found->end());
    } else {
      failed = found.status();
    }
  }
  // One that cannot be resolved does no harm while there are others.
  if (all.empty()) return failed;
  return all;
}

// What finds the servers again that moved; nothing where none of them has a name.
SocketConnector::Lookup AnotherLookup(const std::vector<Endpoint>& endpoints) {
  if (!std::ranges::any_of(endpoints, HasName)) return {};
  return [endpoints] { return ResolveAll(endpoints); };
}

}  // namespace

Session::Session(SessionConfig config, std::unique_ptr<Connector> connector)
    : connector_(std::move(connector)), state_(std::move(config)) {
  for (uint32_t i = 0; i < state_.config().channels; ++i) {
    channels_.push_back(std::make_unique<Channel>(&state_, i, connector_.get()));
  }
}

Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::Open(std::string_view server, SessionConfig config,
                                               int64_t timeout_ns) {
  Result<ServerUri> uri = ParseServerUri(server);
  if (!uri.ok()) return uri.status();
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  EpollLoop& epoll = **loop;
  Result<std::vector<SocketAddress>> addresses = ResolveAll(uri->endpoints);
  if (!addresses.ok()) return addresses.status();

  // A slow name server is not the servers' fault, who have their time from now on.
  const int64_t deadline = epoll.NowNs() + timeout_ns;
  // A server that is silent leaves the others their share.
  const int64_t share = timeout_ns / static_cast<int64_t>(addresses->size());
  config.open_answer_timeout_ns = std::min(config.answer_timeout_ns, share);
  config.volume = uri->volume;
  SocketSettings settings;
  settings.dead_peer_ms = static_cast<uint32_t>(config.answer_timeout_ns / kNsPerMs);
  std::unique_ptr<Session> session(new Session(
      std::move(config), std::make_unique<SocketConnector>(std::move(*addresses), settings,
                                                           AnotherLookup(uri->endpoints))));
  std::vector<Channel*> channels;
  for (const auto& channel : session->channels_) channels.push_back(channel.get());
  SessionOpener opener(&session->state_, std::move(channels));

  opener.Start({&epoll, nullptr, nullptr, nullptr});
  while (!opener.done()) {
    const int64_t left = deadline - epoll.NowNs();
    if (left <= 0) {
      opener.GiveUp(timeout_ns);
    } else {
      epoll.RunOnce(left);
    }
  }
  opener.Finish();
  if (!opener.status().ok()) return opener.status();
  return session;
}

void Session::Close(int64_t timeout_ns) {
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (loop.ok() && !state_.revoked() && !state_.released()) {
    EpollLoop& epoll = **loop;
    const int64_t deadline = epoll.NowNs() + timeout_ns;
    Closer closer;
    Channel* channel = channels_[0].get();
    channel->set_observer(&closer);
    channel->Attach({&epoll, nullptr, nullptr, nullptr});
    channel->Close(true);
    while (!closer.closed() && channel->state() != Channel::State::kFailed) {
      const int64_t left = deadline - epoll.NowNs();
      if (left <= 0) break;
      epoll.RunOnce(left);
    }
    channel->Detach();
    channel->set_observer(nullptr);
  }
  // The server stopped the others' connections when it ended the session.
  for (const auto& channel : channels_) channel->Abandon();
}

SessionOpener::SessionOpener(SessionState* state, std::vector<Channel*> channels)
    : state_(state), channels_(std::move(channels)) {
  for (Channel* channel : channels_) channel->set_observer(this);
}

void SessionOpener::Start(const Channel::Host& host) {
  for (Channel* channel : channels_) channel->Attach(host);
  channels_[0]->Start();
}

void SessionOpener::OnReady(Channel*) {
  if (done_) return;
  // What was wrong before is not what the others wait for.
  failed_.clear();
  last_ = {};
  last_server_.clear();
  if (!started_others_) {
    started_others_ = true;
    for (size_t i = 1; i < channels_.size(); ++i) channels_[i]->Start();
  }
  // One of them may have failed at once.
  if (done_) return;
  done_ = std::ranges::all_of(
      channels_, [](const Channel* channel) { return channel->state() == Channel::State::kReady; });
}

void SessionOpener::OnFailure(Channel* channel, const ConnectionFailure& failure) {
  if (done_) return;
  if (state_->revoked()) {
    done_ = true;
    status_ = Status(failure.error, "volume '" + state_->config().volume +
                                        "' was lost while it was being opened: " + failure.text);
    return;
  }
  // What a server says itself is told rather than that another one cannot be reached.
  const std::string& server = channel->server_name();
  if (failure.refused || !last_.refused || server == last_server_) {
    last_ = failure;
    last_server_ = server;
  }
  // Every address gets its chance, and one that may take us later is waited for.
  if (MayPass(failure)) return failed_.clear();
  failed_.insert(channel->address());
  if (failed_.size() < channel->connector().count()) return;
  done_ = true;
  status_ = Status(last_.error, Describe(last_));
}

void SessionOpener::GiveUp(int64_t waited_ns) {
  done_ = true;
  const auto waiting = std::ranges::find_if(
      channels_, [](const Channel* channel) { return channel->state() != Channel::State::kReady; });
  std::string why = "server " + (*waiting)->server_name() + " does not answer";
  // What a server said, or what is wrong with this one, rather than with another one.
  if (last_.error != 0 && (last_.refused || last_server_ == (*waiting)->server_name())) {
    why = Describe(last_);
  }
  const std::string waited = waited_ns < kNsPerS ? std::to_string(waited_ns / kNsPerMs) + " ms"
                                                 : std::to_string(waited_ns / kNsPerS) + " s";
  status_ = Status(last_.refused ? last_.error : ETIMEDOUT, "gave up after " + waited + ": " + why);
}

void SessionOpener::Finish() {
  for (Channel* channel : channels_) {
    channel->Detach();
    channel->set_observer(nullptr);
    if (!status_.ok()) channel->Abandon();
  }
}

std::string SessionOpener::Describe(const ConnectionFailure& failure) const {
  if (failure.refused) {
    return "server " + last_server_ + " refuses volume '" + state_->config().volume +
           "': " + failure.text;
  }
  if (failure.error == EPROTO) {
    return "no cloudblk server at " + last_server_ + ": " + failure.text +
           "; check the port in the server URI";
  }
  const std::string text = failure.text.find(last_server_) == std::string::npos
                               ? last_server_ + ": " + failure.text
                               : failure.text;
  return text + "; start cloudblk-proxy there, or correct the server URI";
}

}  // namespace cloudblk
