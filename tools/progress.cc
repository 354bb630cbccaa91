// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace cloudblk {
namespace {

constexpr auto kFirstDraw = std::chrono::milliseconds(500);
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr uint64_t kBarWidth = 40;

// Not fmt::print, which throws where the terminal went away: that is no reason to end.
void Draw(const std::string& text) { fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

std::string HumanBytes(double bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) bytes /= 1024, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

Progress::Progress(uint64_t total)
    : total_(total), terminal_(isatty(STDERR_FILENO) != 0), next_(start_ + kFirstDraw) {}

Progress::~Progress() {
  if (drawn_) Draw("\r\033[K");
}

void Progress::Update(uint64_t done) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + kRedraw;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / seconds;
  if (total_ == 0) {
    Draw(fmt::format("\r\033[K{}  {}/s", HumanBytes(static_cast<double>(done)), HumanBytes(rate)));
    return;
  }
  const uint64_t filled = std::min(kBarWidth, kBarWidth * done / total_);
  const double left = rate > 0 ? static_cast<double>(total_ - done) / rate : 0;
  Draw(fmt::format("\r\033[K[{:=<{}}{: <{}}] {:3}%  {}/s  {:.0f} s left", "", filled, "",
                   kBarWidth - filled, 100 * done / total_, HumanBytes(rate), left));
}

}  // namespace cloudblk
