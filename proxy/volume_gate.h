// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keeps the connections of a volume from its storage, for what needs it quiet: a resize.
#ifndef CLOUDBLK_PROXY_VOLUME_GATE_H_
#define CLOUDBLK_PROXY_VOLUME_GATE_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <set>

namespace cloudblk::proxy {

// A connection as the gate sees it. Its functions are called with the gate's lock held, from any
// thread, and return at once.
class GateMember {
 public:
  // Hand nothing more to the storage, and call VolumeGate::Paused when nothing is there any more.
  virtual void Pause() = 0;
  // Go on.
  virtual void Resume() = 0;
  // The volume has that size now, in bytes.
  virtual void Resized(uint64_t size) = 0;

 protected:
  ~GateMember() = default;
};

// One volume's. All methods may be called from any thread, and wait for nobody.
class VolumeGate {
 public:
  // From now on the member takes part: whoever looks at the size after this is told of any change.
  // True: the gate is closed, and the member is paused from the start.
  bool Join(GateMember* member);
  // Nothing of the member can reach the storage any more, and no more calls to it are made.
  void Leave(GateMember* member);
  void Paused(GateMember* member);

  // Pauses the members; `on_quiet` is called once none of them has anything at the storage, maybe
  // from inside, with the gate's lock held: it returns at once. Precondition: open.
  void Close(std::function<void()> on_quiet);
  // The members go on. Precondition: `on_quiet` was called.
  void Open();
  // Unless `on_quiet` was called, the members go on, and it is not called any more. False: it was.
  bool GiveUp();
  // The volume has that size now, in bytes: the members are told. Open or closed.
  void Tell(uint64_t size);

 private:
  void TellIfQuiet();  // with mutex_ held

  std::mutex mutex_;
  std::set<GateMember*> members_;
  bool is_closed_ = false;             // or is about to be
  std::set<GateMember*> waiting_for_;  // to be paused
  std::function<void()> on_quiet_;     // while it is not called
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_VOLUME_GATE_H_
