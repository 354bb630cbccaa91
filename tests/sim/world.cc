// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/world.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "tests/sim/server_end.h"

namespace cloudblk::testing {

World::World(uint32_t seed, size_t size) : medium(size), random_(seed) {
  // Thousands of servers would log the same. Only this logger's own level is set: setting that of
  // all loggers takes a lock that ThreadSanitizer does not see.
  spdlog::default_logger_raw()->set_level(spdlog::level::off);
  loop.AddStep([this] { return Step(); });
  Boot();
}

World::~World() { Kill(); }

void World::Boot() {
  EXPECT_EQ(server_, nullptr);
  auto server = std::make_unique<Server>(&loop);
  auto backend = std::make_unique<SimBackend>(&medium, &random_);
  server->backend = backend.get();
  const proxy::VolumeTools tools{[this] { return loop.NowNs(); }, &server->alarm,
                                 [raw = server.get()]() -> std::unique_ptr<Executor> {
                                   auto executor = std::make_unique<ManualExecutor>();
                                   raw->executors.push_back(executor.get());
                                   return executor;
                                 }};
  auto volume = std::make_unique<proxy::Volume>("disk", std::move(backend), 10'000, tools);
  volume->ownership.Restore();
  server->volumes.emplace("disk", std::move(volume));
  server->host = std::make_unique<proxy::ConnectionHost>(
      &loop, proxy::ServerInfo{&server->volumes, {}, &server->limits, &server->access});
  EXPECT_TRUE(server->host->Attach().ok());
  server_ = std::move(server);
}

void World::Kill() {
  if (server_ == nullptr) return;
  // Clients that connect from here on find no server.
  const std::unique_ptr<Server> dying = std::exchange(server_, nullptr);
  for (const auto& link : dying->links) {
    if (const auto alive = link.lock()) alive->server_closed = true;
  }
  dying->backend->DropAll();
  for (int turns = 0; dying->host->connections() != 0 && turns < 1000; ++turns) {
    loop.Run();
    dying->backend->DropAll();
  }
  EXPECT_EQ(dying->host->connections(), 0u);
  // What its executors had not done is never done.
  for (ManualExecutor* executor : dying->executors) executor->Clear();
  medium.locked = false;
}

void World::Crash() {
  Kill();
  medium.LoseCache();
}

FixtureOptions World::Client() {
  FixtureOptions options;
  options.size = medium.data.size();
  options.loop = &loop;
  options.accept = [this](std::shared_ptr<MemoryLink> link) { Accept(std::move(link)); };
  return options;
}

void World::Accept(std::shared_ptr<MemoryLink> link) {
  if (on_link) on_link(link.get());
  last_link = link;
  if (server_ == nullptr) {
    link->server_closed = true;
    return;
  }
  server_->links.push_back(link);
  std::unique_ptr<Transport> end = ServerEnd(&loop, std::move(link), &crc);
  server_->host->Adopt(wrap ? wrap(std::move(end)) : std::move(end), {});
}

// Does one or two of the things that storage and executors have to do, or none this time.
bool World::Step() {
  if (server_ == nullptr || frozen) return false;
  std::vector<ManualExecutor*> busy;
  for (ManualExecutor* executor : server_->executors) {
    if (!executor->idle()) busy.push_back(executor);
  }
  const bool work = server_->backend->busy();
  if (busy.empty() && !work) return false;
  const uint32_t what = Draw(4);
  if (!busy.empty() && what != 0) busy[Draw(static_cast<uint32_t>(busy.size()))]->Step();
  if (work && what != 1) server_->backend->Step();
  return true;
}

}  // namespace cloudblk::testing
