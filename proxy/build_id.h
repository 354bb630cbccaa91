// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_BUILD_ID_H_
#define CLOUDBLK_PROXY_BUILD_ID_H_

namespace cloudblk::proxy {

// Of the proxy's library, from which this program or module is linked: 64 hexadecimal digits. Equal
// only where the sources, the compiler and its options were.
extern const char kBuildId[];

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BUILD_ID_H_
