// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_credentials.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "base/random.h"

namespace cloudblk {
namespace {

// GnuTLS's NORMAL, with the cipher first that processors do fastest: with a key of a file, which
// goes with SHA-256, NORMAL takes ChaCha20 before AES, which moved a tenth of the bytes in the same
// time.
constexpr char kDefault[] = "NORMAL:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305";
constexpr char kVersions[] = "-VERS-ALL:+VERS-TLS1.3";
constexpr char kPskExchanges[] = "+ECDHE-PSK:+DHE-PSK:+PSK";
constexpr char kKeys[] = "keys.psk";
constexpr size_t kMostOfKeys = 16 << 20;
constexpr size_t kUnknownKey = 32;

// 0: it can be read; else errno.
int ReadError(const std::string& path) { return access(path.c_str(), R_OK) == 0 ? 0 : errno; }

Status CannotRead(const std::string& path, int error, const std::string& advice) {
  return Status(error, "TLS: cannot read " + path + ": " + std::strerror(error) + "; " + advice);
}

Status BadFile(const std::string& path, int gnutls_error, const std::string& advice) {
  return Status(EINVAL, "TLS: " + path + ": " + gnutls_strerror(gnutls_error) + "; " + advice);
}

// Changes when one of the files does.
std::string StampOf(const std::string& dir) {
  std::string stamp;
  for (const char* name : {"ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem",
                           "client-cert.pem", "client-key.pem", kKeys}) {
    struct stat info{};
    if (stat((dir + "/" + name).c_str(), &info) != 0) info = {};
    for (const auto number : {static_cast<int64_t>(info.st_ino), static_cast<int64_t>(info.st_size),
                              int64_t{info.st_mtim.tv_sec}, int64_t{info.st_mtim.tv_nsec}}) {
      stamp += std::to_string(number) + " ";
    }
  }
  return stamp;
}

int Hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// False: it is no number of whole bytes, at least one.
bool ParseHex(std::string_view text, std::vector<uint8_t>* out) {
  if (text.empty() || text.size() % 2 != 0) return false;
  out->clear();
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = Hex(text[i]);
    const int low = Hex(text[i + 1]);
    if (high < 0 || low < 0) return false;
    out->push_back(static_cast<uint8_t>(high << 4 | low));
  }
  return true;
}

}  // namespace

Result<TlsSettings::Kind> KindOfTlsFolder(const std::string& dir) {
  const std::string keys = dir + "/" + kKeys;
  const std::string ca = dir + "/ca-cert.pem";
  if (access(keys.c_str(), F_OK) == 0) return TlsSettings::Kind::kPsk;
  if (access(ca.c_str(), F_OK) == 0) return TlsSettings::Kind::kX509;
  const int error = errno;
  return Status(error, "TLS: " + dir + " has no ca-cert.pem and no " + kKeys +
                           " that can be seen (" + std::strerror(error) +
                           "); put certificates or keys there, or name another folder");
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::Load(const TlsSettings& settings) {
  std::shared_ptr<TlsCredentials> made(new TlsCredentials(settings));
  // Before they are read: what is written meanwhile makes them outdated.
  made->stamp_ = StampOf(settings.dir);
  Status status = made->LoadPriority();
  if (status.ok()) status = made->is_psk() ? made->LoadPsk() : made->LoadX509();
  if (!status.ok()) return status;
  return std::shared_ptr<const TlsCredentials>(std::move(made));
}

bool TlsCredentials::IsOutdated() const { return StampOf(settings_.dir) != stamp_; }

Status TlsCredentials::LoadPriority() {
  std::string text = settings_.priority.empty() ? kDefault : settings_.priority;
  text += std::string(":") + kVersions;
  if (is_psk()) text += std::string(":") + kPskExchanges;
  gnutls_priority_t priority = nullptr;
  const char* where = nullptr;
  const int error = gnutls_priority_init(&priority, text.c_str(), &where);
  priority_.reset(priority);
  if (error == 0) return Status::Ok();
  return Status(EINVAL, "TLS: priority '" + settings_.priority + "' is not understood at '" +
                            (where == nullptr ? "" : where) +
                            "'; write it as GnuTLS does: NORMAL, say");
}

Status TlsCredentials::LoadX509() {
  gnutls_certificate_credentials_t made = nullptr;
  if (gnutls_certificate_allocate_credentials(&made) != 0) return Status(ENOMEM, "out of memory");
  certificates_.reset(made);
  const std::string ca = settings_.dir + "/ca-cert.pem";
  if (settings_.verify_peer) {
    if (const int error = ReadError(ca); error != 0) {
      return CannotRead(ca, error, "it is to hold the certificates of who signs the peers' ones");
    }
    const int count = gnutls_certificate_set_x509_trust_file(made, ca.c_str(), GNUTLS_X509_FMT_PEM);
    if (count < 0) return BadFile(ca, count, "it is to hold certificates in PEM");
    if (count == 0) return Status(EINVAL, "TLS: " + ca + " holds no certificate in PEM; write one");
    const std::string revoked = settings_.dir + "/ca-crl.pem";
    const int unread = ReadError(revoked);
    if (unread == 0) {
      const int crls =
          gnutls_certificate_set_x509_crl_file(made, revoked.c_str(), GNUTLS_X509_FMT_PEM);
      if (crls <= 0) return BadFile(revoked, crls, "it is to hold revocation lists in PEM");
    } else if (unread != ENOENT) {
      return CannotRead(revoked, unread, "without it nobody's certificate would be revoked");
    }
  }
  const std::string name = settings_.dir + (is_server() ? "/server-" : "/client-");
  const std::string certificate = name + "cert.pem";
  const std::string key = name + "key.pem";
  const int no_certificate = ReadError(certificate);
  if (no_certificate == ENOENT && !is_server() && ReadError(key) == ENOENT) return Status::Ok();
  if (no_certificate != 0) {
    return CannotRead(certificate, no_certificate, "it is to hold our certificate in PEM");
  }
  if (const int error = ReadError(key); error != 0) {
    return CannotRead(key, error, "it is to hold the key of " + certificate);
  }
  const int error = gnutls_certificate_set_x509_key_file2(made, certificate.c_str(), key.c_str(),
                                                          GNUTLS_X509_FMT_PEM, nullptr, 0);
  if (error < 0) {
    return BadFile(certificate + " and " + key, error,
                   "they are to be a certificate and its key without a password, in PEM");
  }
  return Status::Ok();
}

Status TlsCredentials::LoadPsk() {
  const std::string path = settings_.dir + "/" + kKeys;
  std::ifstream file(path);
  if (!file) return CannotRead(path, errno, "it is to hold lines of IDENTITY:HEX-KEY");
  std::string line;
  size_t bytes = 0;
  for (int number = 1; std::getline(file, line); ++number) {
    bytes += line.size();
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with('#')) continue;
    const size_t colon = line.rfind(':');
    const bool named =
        colon != std::string::npos && colon > 0 && line.find('\0') == std::string::npos;
    std::vector<uint8_t> key;
    if (bytes > kMostOfKeys || !named ||
        !ParseHex(std::string_view(line).substr(colon + 1), &key)) {
      // Not the line: it may be a key.
      return Status(EINVAL, "TLS: " + path + ":" + std::to_string(number) +
                                ": this is not IDENTITY:HEX-KEY; make such lines with psktool");
    }
    keys_[line.substr(0, colon)] = std::move(key);
  }
  if (file.bad()) return CannotRead(path, EIO, "it is to hold lines of IDENTITY:HEX-KEY");
  if (keys_.empty())
    return Status(EINVAL, "TLS: " + path + " holds no key; write IDENTITY:HEX-KEY");
  if (is_server()) {
    gnutls_psk_server_credentials_t made = nullptr;
    if (gnutls_psk_allocate_server_credentials(&made) != 0) return Status(ENOMEM, "out of memory");
    psk_server_.reset(made);
    gnutls_psk_set_server_credentials_function(made, GiveKey);
    return Status::Ok();
  }
  const auto found = keys_.find(settings_.username);
  if (found == keys_.end()) {
    return Status(EINVAL, "TLS: " + path + " has no key of '" + settings_.username +
                              "'; add one, or choose a username that is there");
  }
  gnutls_psk_client_credentials_t made = nullptr;
  if (gnutls_psk_allocate_client_credentials(&made) != 0) return Status(ENOMEM, "out of memory");
  psk_client_.reset(made);
  const gnutls_datum_t key{found->second.data(), static_cast<unsigned>(found->second.size())};
  const int error =
      gnutls_psk_set_client_credentials(made, settings_.username.c_str(), &key, GNUTLS_PSK_KEY_RAW);
  if (error != 0) return BadFile(path, error, "choose another key");
  // Of the others' keys a client needs none.
  keys_.clear();
  return Status::Ok();
}

int TlsCredentials::Apply(gnutls_session_t session, TlsNotes* notes) const {
  notes->credentials = this;
  gnutls_session_set_ptr(session, notes);
  const int error = gnutls_priority_set(session, priority_.get());
  if (error != 0) return error;
  if (psk_client_ != nullptr) {
    return gnutls_credentials_set(session, GNUTLS_CRD_PSK, psk_client_.get());
  }
  if (psk_server_ != nullptr) {
    return gnutls_credentials_set(session, GNUTLS_CRD_PSK, psk_server_.get());
  }
  if (is_server()) {
    gnutls_certificate_server_set_request(
        session, settings_.verify_peer ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
    // Who is no client of ours need not learn whom we trust.
    gnutls_certificate_send_x509_rdn_sequence(session, 1);
  }
  return gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificates_.get());
}

int TlsCredentials::GiveKey(gnutls_session_t session, const char* identity, gnutls_datum_t* key) {
  auto* notes = static_cast<TlsNotes*>(gnutls_session_get_ptr(session));
  const auto& keys = notes->credentials->keys_;
  const auto found = keys.find(identity);
  std::vector<uint8_t> bytes;
  if (found != keys.end()) {
    bytes = found->second;
  } else {
    // Nobody is to learn which identities there are.
    notes->unknown_identity = identity;
    bytes.resize(kUnknownKey);
    FillRandom(bytes);
  }
  key->data = static_cast<unsigned char*>(gnutls_malloc(bytes.size()));
  if (key->data == nullptr) return -1;
  key->size = static_cast<unsigned>(bytes.size());
  std::ranges::copy(bytes, key->data);
  return 0;
}

}  // namespace cloudblk
