// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_identity.h"

#include <gnutls/x509.h>

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

namespace cloudblk {
namespace {

constexpr unsigned kMostNames = 256;

struct FreeCertificate {
  void operator()(gnutls_x509_crt_t crt) const { gnutls_x509_crt_deinit(crt); }
};

// A rule that compares text up to a zero byte would take "admin\0.evil.org" for "admin".
void Add(std::string_view name, PeerIdentity* identity) {
  if (name.empty() || name.find('\0') != std::string_view::npos) return;
  identity->names.emplace_back(name);
}

std::string_view Text(const gnutls_datum_t& datum) {
  return {reinterpret_cast<const char*>(datum.data), datum.size};
}

void AddNames(gnutls_x509_crt_t crt, PeerIdentity* identity) {
  gnutls_datum_t subject{};
  if (gnutls_x509_crt_get_dn3(crt, &subject, 0) == 0) {
    Add(Text(subject), identity);
    gnutls_free(subject.data);
  }
  size_t size = 0;
  if (gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, nullptr, &size) ==
      GNUTLS_E_SHORT_MEMORY_BUFFER) {
    std::string name(size, '\0');
    if (gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name.data(), &size) ==
        0) {
      // Without the zero that GnuTLS ends it with.
      Add(std::string_view(name).substr(0, size), identity);
    }
  }
  for (unsigned i = 0; i < kMostNames; ++i) {
    size = 0;
    unsigned kind = 0;
    int got = gnutls_x509_crt_get_subject_alt_name2(crt, i, nullptr, &size, &kind, nullptr);
    if (got == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) return;
    if (got != GNUTLS_E_SHORT_MEMORY_BUFFER) continue;
    std::string name(size, '\0');
    got = gnutls_x509_crt_get_subject_alt_name2(crt, i, name.data(), &size, &kind, nullptr);
    const bool text =
        got == GNUTLS_SAN_DNSNAME || got == GNUTLS_SAN_URI || got == GNUTLS_SAN_RFC822NAME;
    if (text) Add(std::string_view(name).substr(0, size), identity);
  }
}

}  // namespace

PeerIdentity IdentityOf(gnutls_session_t session) {
  PeerIdentity identity;
  if (gnutls_auth_client_get_type(session) == GNUTLS_CRD_PSK) {
    const char* name = gnutls_psk_server_get_username(session);
    if (name != nullptr) identity.psk = name;
    return identity;
  }
  unsigned count = 0;
  const gnutls_datum_t* chain = gnutls_certificate_get_peers(session, &count);
  if (chain == nullptr || count == 0) return identity;
  gnutls_x509_crt_t raw = nullptr;
  if (gnutls_x509_crt_init(&raw) != 0) return identity;
  const std::unique_ptr<std::remove_pointer_t<gnutls_x509_crt_t>, FreeCertificate> crt(raw);
  if (gnutls_x509_crt_import(raw, chain, GNUTLS_X509_FMT_DER) == 0) AddNames(raw, &identity);
  return identity;
}

}  // namespace cloudblk
