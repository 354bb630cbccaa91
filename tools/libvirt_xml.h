// SPDX-License-Identifier: GPL-2.0-or-later
//
// A cloudblk disk in libvirt's XML of a domain. libvirt does not know the device: it hands the
// arguments of <qemu:commandline> on to QEMU as they are.
#ifndef CLOUDBLK_TOOLS_LIBVIRT_XML_H_
#define CLOUDBLK_TOOLS_LIBVIRT_XML_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tools/tls.h"

namespace cloudblk {

struct LibvirtDisk {
  std::string server;      // URI of the volume
  TlsOptions tls{};        // of a URI with TLS
  std::string plugin{};    // the file; empty: compiled into QEMU
  uint32_t iothread = 0;   // of the domain's <iothreads>; 0: none
  uint32_t bootindex = 0;  // 0: none
  std::string address{};   // BUS:SLOT; empty: the first one that is free
  std::string id{};        // empty: the first of cloudblk0, cloudblk1, ... that is free
  std::vector<std::string> properties{};  // NAME=VALUE, of cloudblk-pci
};

struct LibvirtXml {
  std::string xml;
  std::string id;   // of the disk
  std::string bus;  // of the disk, or of its root port
  unsigned slot = 0;
};

// The <qemu:commandline> for a domain of machine type q35 (with an address on pci.0: pc) that has
// no such disk yet. EINVAL, in one line, for what is wrong with `disk`.
Result<LibvirtXml> MakeCommandline(const LibvirtDisk& disk);

// The whole domain, with the disk added where nothing that `domain` mentions is in its way. EINVAL
// for what is wrong with `disk` or `domain`, EEXIST where the domain has what was asked for: the
// volume, the address, the id or the place in the boot order.
Result<LibvirtXml> AddToDomain(const std::string& domain, const LibvirtDisk& disk);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_LIBVIRT_XML_H_
