// SPDX-License-Identifier: GPL-2.0-or-later
//
// Folders of TLS credentials, made for a test.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_CERTIFICATES_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_CERTIFICATES_H_

#include <gnutls/x509.h>

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/tls_credentials.h"

namespace cloudblk::testing {

// A temporary folder of its own, which is removed with all that is in it.
class TlsFolder {
 public:
  TlsFolder();
  ~TlsFolder();
  TlsFolder(const TlsFolder&) = delete;
  TlsFolder& operator=(const TlsFolder&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, std::string_view content) const;

 private:
  std::string path_;
};

struct CertificateOptions {
  std::string common_name = "localhost";
  std::string dns_name{};  // empty: the common name
  std::string ip{};        // an IPv4 address, or none
  bool for_server = true;  // its purpose; else for a client
  time_t from = 0;         // 0: yesterday
  time_t until = 0;        // 0: tomorrow
};

struct FreeX509 {
  void operator()(gnutls_x509_crt_t what) const { gnutls_x509_crt_deinit(what); }
  void operator()(gnutls_x509_privkey_t what) const { gnutls_x509_privkey_deinit(what); }
};
using Certificate = std::unique_ptr<std::remove_pointer_t<gnutls_x509_crt_t>, FreeX509>;
using PrivateKey = std::unique_ptr<std::remove_pointer_t<gnutls_x509_privkey_t>, FreeX509>;

// Signs the others' certificates.
class Authority {
 public:
  explicit Authority(const std::string& name = "test CA");

  // ca-cert.pem, and {server,client}-{cert,key}.pem of a new certificate.
  void Issue(const TlsFolder& folder, const CertificateOptions& options) const;
  // ca-cert.pem alone.
  void Trust(const TlsFolder& folder) const;
  // ca-crl.pem, that revokes the folder's certificate of that side, as `in` is to have it.
  void Revoke(const TlsFolder& of, bool server, const TlsFolder& in) const;

 private:
  PrivateKey key_;
  Certificate certificate_;
};

TlsSettings X509Of(const TlsFolder& folder, TlsSettings::Role role);
TlsSettings PskOf(const TlsFolder& folder, TlsSettings::Role role,
                  const std::string& username = "alice");
// keys.psk with the key of that identity, which is the same for the same seed.
void WriteKey(const TlsFolder& folder, const std::string& identity, int seed);

// Of credentials that are good.
std::shared_ptr<const TlsCredentials> MustLoad(const TlsSettings& settings);

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_CERTIFICATES_H_
