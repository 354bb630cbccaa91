// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_ATTRIBUTES_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_ATTRIBUTES_H_

#include <string>

#include "base/status.h"

namespace cloudblk::proxy {

// Small texts that are kept for a file and outlive this process: extended attributes
// "user.cloudblk.NAME" of it or, for a block device, whose node has none, files "KEY.NAME" in a
// folder. Any thread, but while one sets an attribute no other may use the same one.
class FileAttributes {
 public:
  // `folder`: of a block device, made when it is needed; empty: `fd` has extended attributes.
  FileAttributes(int fd, std::string folder, std::string key)
      : fd_(fd), folder_(std::move(folder)), key_(std::move(key)) {}

  // 0 or errno. An empty value removes the attribute. In a folder the change is durable on return,
  // else with the next fsync of the file.
  int Set(const std::string& name, const std::string& value) const;
  // Empty if there is none, or there can be none. An error: it cannot be read.
  Result<std::string> Get(const std::string& name) const;
  // For a message about it.
  std::string Describe(const std::string& name) const;

 private:
  std::string PathOf(const std::string& name) const { return folder_ + "/" + key_ + "." + name; }
  int SetFile(const std::string& name, const std::string& value) const;

  const int fd_;
  const std::string folder_;
  const std::string key_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_FILE_ATTRIBUTES_H_
