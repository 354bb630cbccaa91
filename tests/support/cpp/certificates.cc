// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/certificates.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "base/random.h"

namespace cloudblk::testing {
namespace {

constexpr time_t kDay = 24 * 3600;

void Must(int result) {
  if (result < 0) throw std::runtime_error(gnutls_strerror(result));
}

PrivateKey NewKey() {
  gnutls_x509_privkey_t key;
  Must(gnutls_x509_privkey_init(&key));
  PrivateKey owned(key);
  Must(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                    GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
  return owned;
}

Certificate NewCertificate(gnutls_x509_privkey_t key, const std::string& name, time_t from,
                           time_t until) {
  gnutls_x509_crt_t crt;
  Must(gnutls_x509_crt_init(&crt));
  Certificate owned(crt);
  const uint64_t serial = Random64() >> 1;
  Must(gnutls_x509_crt_set_version(crt, 3));
  Must(gnutls_x509_crt_set_serial(crt, &serial, sizeof(serial)));
  Must(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name.data(),
                                     static_cast<unsigned>(name.size())));
  Must(gnutls_x509_crt_set_key(crt, key));
  Must(gnutls_x509_crt_set_activation_time(crt, from));
  Must(gnutls_x509_crt_set_expiration_time(crt, until));
  return owned;
}

std::string Pem(gnutls_x509_crt_t crt) {
  gnutls_datum_t out;
  Must(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &out));
  std::string text(reinterpret_cast<char*>(out.data), out.size);
  gnutls_free(out.data);
  return text;
}

std::string Pem(gnutls_x509_privkey_t key) {
  gnutls_datum_t out;
  Must(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &out));
  std::string text(reinterpret_cast<char*>(out.data), out.size);
  gnutls_free(out.data);
  return text;
}

}  // namespace

TlsFolder::TlsFolder() {
  path_ = (std::filesystem::temp_directory_path() / "cloudblk-tls-XXXXXX").string();
  if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make a folder");
}

TlsFolder::~TlsFolder() { std::filesystem::remove_all(path_); }

void TlsFolder::Write(const std::string& name, std::string_view content) const {
  std::ofstream(path_ + "/" + name) << content;
}

Authority::Authority(const std::string& name) : key_(NewKey()) {
  const time_t now = time(nullptr);
  certificate_ = NewCertificate(key_.get(), name, now - 10 * kDay, now + 10 * kDay);
  Must(gnutls_x509_crt_set_basic_constraints(certificate_.get(), 1, -1));
  Must(gnutls_x509_crt_set_key_usage(certificate_.get(),
                                     GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN));
  Must(gnutls_x509_crt_sign2(certificate_.get(), certificate_.get(), key_.get(), GNUTLS_DIG_SHA256,
                             0));
}

void Authority::Trust(const TlsFolder& folder) const {
  folder.Write("ca-cert.pem", Pem(certificate_.get()));
}

void Authority::Issue(const TlsFolder& folder, const CertificateOptions& options) const {
  const time_t now = time(nullptr);
  const PrivateKey key = NewKey();
  const Certificate crt =
      NewCertificate(key.get(), options.common_name, options.from != 0 ? options.from : now - kDay,
                     options.until != 0 ? options.until : now + kDay);
  const std::string& dns = options.dns_name.empty() ? options.common_name : options.dns_name;
  Must(gnutls_x509_crt_set_subject_alt_name(crt.get(), GNUTLS_SAN_DNSNAME, dns.data(),
                                            static_cast<unsigned>(dns.size()), GNUTLS_FSAN_SET));
  if (!options.ip.empty()) {
    in_addr address;
    EXPECT_EQ(inet_pton(AF_INET, options.ip.c_str(), &address), 1);
    Must(gnutls_x509_crt_set_subject_alt_name(crt.get(), GNUTLS_SAN_IPADDRESS, &address,
                                              sizeof(address), GNUTLS_FSAN_APPEND));
  }
  Must(gnutls_x509_crt_set_key_usage(crt.get(), GNUTLS_KEY_DIGITAL_SIGNATURE));
  Must(gnutls_x509_crt_set_key_purpose_oid(
      crt.get(), options.for_server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT, 0));
  Must(gnutls_x509_crt_sign2(crt.get(), certificate_.get(), key_.get(), GNUTLS_DIG_SHA256, 0));
  const std::string side = options.for_server ? "server" : "client";
  Trust(folder);
  folder.Write(side + "-cert.pem", Pem(crt.get()));
  folder.Write(side + "-key.pem", Pem(key.get()));
}

void Authority::Revoke(const TlsFolder& of, bool server, const TlsFolder& in) const {
  gnutls_datum_t pem;
  Must(
      gnutls_load_file((of.path() + (server ? "/server" : "/client") + "-cert.pem").c_str(), &pem));
  gnutls_x509_crt_t raw;
  Must(gnutls_x509_crt_init(&raw));
  const Certificate crt(raw);
  Must(gnutls_x509_crt_import(raw, &pem, GNUTLS_X509_FMT_PEM));
  gnutls_free(pem.data);
  gnutls_x509_crl_t crl;
  Must(gnutls_x509_crl_init(&crl));
  const time_t now = time(nullptr);
  Must(gnutls_x509_crl_set_version(crl, 2));
  Must(gnutls_x509_crl_set_this_update(crl, now - kDay));
  Must(gnutls_x509_crl_set_next_update(crl, now + kDay));
  Must(gnutls_x509_crl_set_crt(crl, raw, now - kDay));
  const uint8_t number = 1;
  Must(gnutls_x509_crl_set_number(crl, &number, sizeof(number)));
  Must(gnutls_x509_crl_sign2(crl, certificate_.get(), key_.get(), GNUTLS_DIG_SHA256, 0));
  gnutls_datum_t out;
  Must(gnutls_x509_crl_export2(crl, GNUTLS_X509_FMT_PEM, &out));
  in.Write("ca-crl.pem", {reinterpret_cast<char*>(out.data), out.size});
  gnutls_free(out.data);
  gnutls_x509_crl_deinit(crl);
}

TlsSettings X509Of(const TlsFolder& folder, TlsSettings::Role role) {
  TlsSettings settings;
  settings.role = role;
  settings.dir = folder.path();
  return settings;
}

TlsSettings PskOf(const TlsFolder& folder, TlsSettings::Role role, const std::string& username) {
  TlsSettings settings = X509Of(folder, role);
  settings.kind = TlsSettings::Kind::kPsk;
  settings.username = username;
  return settings;
}

void WriteKey(const TlsFolder& folder, const std::string& identity, int seed) {
  std::string hex;
  for (int i = 0; i < 32; ++i) hex += "0123456789abcdef"[(i * 7 + seed) % 16];
  folder.Write("keys.psk", "# a comment\n" + identity + ":" + hex + "\n");
}

std::shared_ptr<const TlsCredentials> MustLoad(const TlsSettings& settings) {
  auto loaded = TlsCredentials::Load(settings);
  if (!loaded.ok()) throw std::runtime_error(loaded.status().message());
  return *loaded;
}

}  // namespace cloudblk::testing
