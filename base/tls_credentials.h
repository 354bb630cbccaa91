// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keys and certificates for TLS, from files that are named and laid out as QEMU's tls-creds-x509
// and tls-creds-psk have them.
#ifndef CLOUDBLK_BASE_TLS_CREDENTIALS_H_
#define CLOUDBLK_BASE_TLS_CREDENTIALS_H_

#include <gnutls/gnutls.h>

#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.h"

namespace cloudblk {

struct TlsSettings {
  enum class Kind { kX509, kPsk };
  enum class Role { kClient, kServer };

  Kind kind = Kind::kX509;
  Role role = Role::kClient;
  // X.509: ca-cert.pem, {server,client}-{cert,key}.pem, and ca-crl.pem if there is one; a client
  // without client-cert.pem has no certificate. PSK: keys.psk, lines of `IDENTITY:HEX-KEY`.
  std::string dir{};
  std::string username = "qemu";  // PSK, client: whose key of keys.psk it uses
  bool verify_peer = true;        // X.509: the peer has to have a certificate that is good
  std::string priority{};         // GnuTLS's; empty: NORMAL, AES first. Always TLS 1.3.
};

// Of the folder's files: PSK where there is keys.psk, else X.509. ENOENT: it has neither.
Result<TlsSettings::Kind> KindOfTlsFolder(const std::string& dir);

class TlsCredentials;

// What a session learns while it shakes hands.
struct TlsNotes {
  const TlsCredentials* credentials = nullptr;
  std::string unknown_identity{};  // a client's, of which keys.psk has no key
};

// Constant once loaded, and for any number of connections at a time. Any thread.
class TlsCredentials {
 public:
  // Reads the files, which may block. The error names the file and what is wrong with it.
  static Result<std::shared_ptr<const TlsCredentials>> Load(const TlsSettings& settings);

  const TlsSettings& settings() const { return settings_; }
  // Whether the files are others by now than those that were loaded. Asks the file system.
  bool IsOutdated() const;
  bool is_server() const { return settings_.role == TlsSettings::Role::kServer; }
  bool is_psk() const { return settings_.kind == TlsSettings::Kind::kPsk; }
  // Puts them into a session of the same role, which must not outlive this and the notes. A GnuTLS
  // error, or 0. With an unknown identity the handshake fails as with a wrong key.
  int Apply(gnutls_session_t session, TlsNotes* notes) const;

 private:
  template <auto fn>
  struct Freer {
    template <typename T>
    void operator()(T* what) const {
      fn(what);
    }
  };
  template <typename Handle, auto fn>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Freer<fn>>;

  explicit TlsCredentials(const TlsSettings& settings) : settings_(settings) {}

  Status LoadPriority();
  Status LoadX509();
  Status LoadPsk();
  static int GiveKey(gnutls_session_t session, const char* identity, gnutls_datum_t* key);

  const TlsSettings settings_;
  std::string stamp_;  // of the files
  Owned<gnutls_priority_t, gnutls_priority_deinit> priority_;
  Owned<gnutls_certificate_credentials_t, gnutls_certificate_free_credentials> certificates_;
  Owned<gnutls_psk_client_credentials_t, gnutls_psk_free_client_credentials> psk_client_;
  Owned<gnutls_psk_server_credentials_t, gnutls_psk_free_server_credentials> psk_server_;
  std::map<std::string, std::vector<uint8_t>> keys_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_CREDENTIALS_H_
