// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/virsh.h"

#include <fmt/core.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/socket.h"

namespace cloudblk {
namespace {

std::string ReadAll(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  ssize_t got = 0;
  while ((got = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(text.size()))) > 0) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  return text;
}

// Of its messages the first line, which has the reason.
std::string Reason(const std::string& messages) {
  std::string line = messages.substr(0, messages.find('\n'));
  if (line.starts_with("error: ")) line.erase(0, 7);
  const size_t second = messages.find("\nerror: ");
  if (second != std::string::npos) {
    line += " " + messages.substr(second + 8, messages.find('\n', second + 1) - second - 8);
  }
  return line;
}

}  // namespace

Result<std::string> RunVirsh(const std::string& connect, const std::vector<std::string>& words,
                             std::string_view input) {
  std::vector<std::string> command = {"virsh", "--quiet"};
  if (!connect.empty()) command.insert(command.end(), {"--connect", connect});
  command.insert(command.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  // Files in memory: nobody has to read and write in turn, and the XML may have passwords.
  std::array<UniqueFd, 3> files;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  int error = 0;
  for (int i = 0; i < 3; ++i) {
    files[i] = UniqueFd(memfd_create("virsh", MFD_CLOEXEC));
    if (!files[i]) error = errno;
    posix_spawn_file_actions_adddup2(&actions, files[i].get(), i);
  }
  if (error == 0 &&
      pwrite(files[0].get(), input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
    error = errno;
  }
  pid_t child = 0;
  if (error == 0) {
    error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  }
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return Status(error, fmt::format("cannot run virsh, which is in Debian's libvirt-clients: {}",
                                     strerror(error)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return ReadAll(files[1].get());
  return Status(EIO, fmt::format("virsh {}: {}", words[0], Reason(ReadAll(files[2].get()))));
}

}  // namespace cloudblk
