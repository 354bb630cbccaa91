// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/image.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tools/copy.h"
#include "tools/interrupt.h"

namespace cloudblk {
namespace {

constexpr char kRaw[] = "raw";

// A file that goes with the process, whatever becomes of that.
Result<UniqueFd> OpenNameless() {
  const char* const chosen = getenv("TMPDIR");
  std::string path = fmt::format("{}/cloudblk-XXXXXX", chosen != nullptr ? chosen : "/var/tmp");
  UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd || unlink(path.c_str()) != 0) {
    return Status(errno, fmt::format("cannot make a temporary file {}: {}; set TMPDIR", path,
                                     strerror(errno)));
  }
  return fd;
}

std::string NameOf(const UniqueFd& fd) { return fmt::format("/proc/{}/fd/{}", getpid(), fd.get()); }

// Converts one image into another by qemu-img, which says itself what is wrong.
Status Convert(const std::string& from, const std::string& from_format, const std::string& to,
               const std::string& to_format) {
  std::vector<std::string> words = {"qemu-img", "convert", "-f", from_format,
                                    "-O",       to_format, from, to};
  // What a terminal shows of it goes where our own progress does.
  if (isatty(STDERR_FILENO) != 0) words.insert(words.begin() + 2, "-p");
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, words[0].c_str(), &files, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return Status(error, fmt::format("cannot run qemu-img, which formats other than raw need: {}",
                                     strerror(error)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    if (InterruptSignal() != 0) kill(child, InterruptSignal());
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return Status::Ok();
  return Status(EIO, fmt::format("qemu-img could not convert {} to {}", from_format, to_format));
}

// What a file of another format begins with, where that is known.
Status CheckRaw(const std::string& path) {
  struct Beginning {
    std::string_view bytes;
    const char* format;
  };
  constexpr std::array<Beginning, 4> kBeginnings = {{{{"QFI\xfb", 4}, "qcow2"},
                                                     {{"KDMV", 4}, "vmdk"},
                                                     {{"vhdxfile", 8}, "vhdx"},
                                                     {{"QED\0", 4}, "qed"}}};
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char head[8] = "";
  // What cannot be opened or read is told by who copies it.
  if (!fd || read(fd.get(), head, sizeof(head)) < 0) return Status::Ok();
  for (const Beginning& beginning : kBeginnings) {
    if (!std::string_view(head, sizeof(head)).starts_with(beginning.bytes)) continue;
    return Status(EINVAL, fmt::format("{} looks like {}: say --format {}, or --format raw if it is "
                                      "to be copied as it is",
                                      path, beginning.format, beginning.format));
  }
  return Status::Ok();
}

}  // namespace

Result<uint64_t> ImportImage(Client* client, const std::string& path, const std::string& format,
                             bool raw_is_meant) {
  if (format == kRaw) {
    const Status raw = raw_is_meant ? Status::Ok() : CheckRaw(path);
    if (!raw.ok()) return raw;
    return CopyIn(client, 0, UINT64_MAX, path, true);
  }
  auto plain = OpenNameless();
  if (!plain.ok()) return plain.status();
  const Status converted = Convert(path, format, NameOf(*plain), kRaw);
  if (!converted.ok()) return converted;
  return CopyIn(client, 0, UINT64_MAX, NameOf(*plain), true);
}

Result<uint64_t> ExportImage(std::unique_ptr<Client> client, const std::string& path,
                             const std::string& format) {
  const uint64_t size = client->info().size_bytes;
  if (format == kRaw) return CopyOut(client.get(), 0, size, path);
  auto plain = OpenNameless();
  if (!plain.ok()) return plain.status();
  auto copied = CopyOut(client.get(), 0, size, NameOf(*plain));
  // Others may have the volume while it is converted.
  client.reset();
  if (!copied.ok()) return copied;
  const Status converted = Convert(NameOf(*plain), kRaw, path, format);
  if (!converted.ok()) return converted;
  return copied;
}

}  // namespace cloudblk
