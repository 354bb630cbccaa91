// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who is not let in, and what both sides are told of it.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/tls_transport.h"
#include "tests/support/cpp/certificates.h"
#include "tests/support/cpp/tls_pair.h"

namespace cloudblk::testing {
namespace {

using Role = TlsSettings::Role;

// The ends of a connection that comes to nothing.
class TlsRefusal : public ::testing::Test {
 protected:
  TlsRefusal() {
    ca_.Issue(server_, {.common_name = "disk"});
    ca_.Issue(client_, {.common_name = "host", .for_server = false});
  }

  // `client` and `server` are parts of what either is told.
  void ExpectRefused(const std::string& client, int client_error, const std::string& server,
                     int server_error, const std::string& hostname = "disk") {
    auto [near, far] = SocketPair();
    Side a{.transport = Secured(std::move(near), MustLoad(client_settings_), hostname),
           .says = "request"};
    Side b{.transport = Secured(std::move(far), MustLoad(server_settings_)), .says = "answer"};
    // As the programs do, each closes when it sees the error.
    for (int i = 0; i < 4; ++i) {
      Talk(&a, &b);
      if (b.error != 0 && trouble_.empty()) {
        trouble_ = b.transport->trouble();
        b.transport.reset();
      }
    }
    EXPECT_EQ(a.error, client_error) << a.transport->trouble();
    EXPECT_EQ(b.error, server_error) << trouble_;
    EXPECT_NE(a.transport->trouble().find(client), std::string::npos) << a.transport->trouble();
    EXPECT_NE(trouble_.find(server), std::string::npos) << trouble_;
    EXPECT_EQ(a.heard + b.heard, "") << "nothing may pass";
  }

  const Authority ca_;
  TlsFolder server_;
  TlsFolder client_;
  TlsSettings client_settings_ = X509Of(client_, Role::kClient);
  TlsSettings server_settings_ = X509Of(server_, Role::kServer);
  std::string trouble_;
};

TEST_F(TlsRefusal, OfAServerOfAnotherCa) {
  const Authority other("other CA");
  other.Trust(client_);
  ExpectRefused("signed by nobody in our ca-cert.pem", EACCES, "does not accept our certificate",
                EACCES);
}

TEST_F(TlsRefusal, OfAClientOfAnotherCa) {
  const Authority other("other CA");
  other.Issue(client_, {.common_name = "host", .for_server = false});
  ca_.Trust(client_);
  ExpectRefused("does not accept our certificate", EACCES, "signed by nobody in our ca-cert.pem",
                EACCES);
}

TEST_F(TlsRefusal, OfAServerThatHasExpired) {
  const time_t now = time(nullptr);
  ca_.Issue(server_, {.common_name = "disk", .from = now - 7200, .until = now - 3600});
  ExpectRefused("has expired", EACCES, "does not accept our certificate (Certificate is expired)",
                EACCES);
}

TEST_F(TlsRefusal, OfAServerThatIsNotYetValid) {
  const time_t now = time(nullptr);
  ca_.Issue(server_, {.common_name = "disk", .from = now + 3600, .until = now + 7200});
  ExpectRefused("not yet valid", EACCES, "does not accept our certificate", EACCES);
}

TEST_F(TlsRefusal, OfAClientThatHasExpired) {
  const time_t now = time(nullptr);
  ca_.Issue(client_, {.for_server = false, .from = now - 7200, .until = now - 3600});
  ExpectRefused("does not accept our certificate (Certificate is expired)", EACCES, "has expired",
                EACCES);
}

TEST_F(TlsRefusal, OfAnotherName) {
  ExpectRefused("is not for 'elsewhere'", EACCES, "does not accept our certificate", EACCES,
                "elsewhere");
}

TEST_F(TlsRefusal, OfAServerThatIsRevoked) {
  ca_.Revoke(server_, true, client_);
  ExpectRefused("was revoked", EACCES, "Certificate was revoked", EACCES);
}

TEST_F(TlsRefusal, OfAClientThatIsRevoked) {
  ca_.Revoke(client_, false, server_);
  ExpectRefused("Certificate was revoked", EACCES, "was revoked", EACCES);
}

TEST_F(TlsRefusal, OfAClientWithoutACertificate) {
  const TlsFolder bare;
  ca_.Trust(bare);
  client_settings_.dir = bare.path();
  ExpectRefused("wants a certificate", EACCES, "has no certificate", EACCES);
}

// Else who has a client's key could play the server.
TEST_F(TlsRefusal, OfAClientsCertificateAtAServer) {
  for (const char* name : {"cert.pem", "key.pem"}) {
    const std::string client = client_.path() + "/client-" + name;
    const std::string server = server_.path() + "/server-" + name;
    ASSERT_EQ(rename(client.c_str(), server.c_str()), 0);
  }
  ca_.Issue(client_, {.common_name = "host", .for_server = false});
  ExpectRefused("not made for that side", EACCES, "does not accept our certificate", EACCES,
                "host");
}

TEST_F(TlsRefusal, OfAWrongKey) {
  WriteKey(server_, "alice", 1);
  WriteKey(client_, "alice", 2);
  server_settings_ = PskOf(server_, Role::kServer);
  client_settings_ = PskOf(client_, Role::kClient);
  ExpectRefused("does not accept our key", EACCES, "key is not ours", EACCES);
}

TEST_F(TlsRefusal, OfAnUnknownIdentityLooksAsThatOfAWrongKey) {
  WriteKey(server_, "alice", 1);
  WriteKey(client_, "mallory", 1);
  server_settings_ = PskOf(server_, Role::kServer);
  client_settings_ = PskOf(client_, Role::kClient, "mallory");
  ExpectRefused("does not accept our key", EACCES, "has no key of 'mallory'", EACCES);
}

TEST_F(TlsRefusal, OfKeysWhereCertificatesAreWanted) {
  WriteKey(client_, "alice", 1);
  client_settings_ = PskOf(client_, Role::kClient);
  ExpectRefused("certificates and the other for keys", EPROTO,
                "certificates and the other for keys", EPROTO);
}

TEST_F(TlsRefusal, OfCertificatesWhereKeysAreWanted) {
  WriteKey(server_, "alice", 1);
  server_settings_ = PskOf(server_, Role::kServer);
  ExpectRefused("certificates and the other for keys", EPROTO,
                "certificates and the other for keys", EPROTO);
}

// A client without TLS, and a server without.
TEST_F(TlsRefusal, OfClearText) {
  {
    auto [near, far] = SocketPair();
    Side a{.transport = AcceptedTransport(std::move(near)), .says = "CBLK hello, in clear text"};
    Side b{.transport = Secured(std::move(far), MustLoad(server_settings_))};
    Talk(&a, &b);
    EXPECT_EQ(b.error, EPROTO);
    EXPECT_NE(b.transport->trouble().find("speaks clear text"), std::string::npos);
    EXPECT_EQ(a.heard.substr(0, 2), "\x15\x03") << "an alert";
  }
  auto [near, far] = SocketPair();
  Side a{.transport = Secured(std::move(near), MustLoad(client_settings_), "disk"), .says = "x"};
  Side b{.transport = AcceptedTransport(std::move(far)), .says = "CBLK what is that?"};
  Talk(&a, &b);
  EXPECT_EQ(a.error, EPROTO);
  EXPECT_NE(a.transport->trouble().find("does not speak TLS"), std::string::npos);
}

// A peer that GnuTLS makes, as ours is not.
class OtherPeer {
 public:
  OtherPeer(int fd, bool server, const TlsFolder& folder, const char* priority) {
    gnutls_certificate_allocate_credentials(&credentials_);
    const std::string name = folder.path() + (server ? "/server-" : "/client-");
    gnutls_certificate_set_x509_key_file(credentials_, (name + "cert.pem").c_str(),
                                         (name + "key.pem").c_str(), GNUTLS_X509_FMT_PEM);
    gnutls_init(&session_, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK);
    gnutls_priority_set_direct(session_, priority, nullptr);
    gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, credentials_);
    gnutls_transport_set_int(session_, fd);
  }
  ~OtherPeer() {
    gnutls_deinit(session_);
    gnutls_certificate_free_credentials(credentials_);
  }
  int Handshake() {
    const int state = gnutls_handshake(session_);
    if (gnutls_error_is_fatal(state) != 0) gnutls_alert_send_appropriate(session_, state);
    return state;
  }
  // What it takes in one record.
  void SetMostOfRecord(size_t bytes) { gnutls_record_set_max_recv_size(session_, bytes); }
  // Bytes, 0 or a GnuTLS error.
  ssize_t Receive(void* to, size_t size) { return gnutls_record_recv(session_, to, size); }

 private:
  gnutls_certificate_credentials_t credentials_{};
  gnutls_session_t session_{};
};

TEST_F(TlsRefusal, OfOlderVersions) {
  for (const bool old_server : {false, true}) {
    SCOPED_TRACE(old_server ? "an old server" : "an old client");
    auto [near, far] = SocketPair();
    OtherPeer old(near.get(), old_server, old_server ? server_ : client_,
                  "NORMAL:-VERS-ALL:+VERS-TLS1.2");
    Side ours{
        .transport = Secured(std::move(far),
                             MustLoad(old_server ? client_settings_ : server_settings_), "disk"),
        .says = "secret"};
    Side none;
    int state = GNUTLS_E_AGAIN;
    for (int i = 0; i < 20; ++i) {
      if (state == GNUTLS_E_AGAIN) state = old.Handshake();
      Talk(&none, &ours);
    }
    EXPECT_NE(state, 0);
    EXPECT_EQ(ours.error, EPROTO) << ours.transport->trouble();
    EXPECT_NE(ours.transport->trouble().find("TLS 1.3"), std::string::npos)
        << ours.transport->trouble();
  }
}

TEST_F(TlsRefusal, IsNotOfOneWhoTakesSmallRecordsOnly) {
  auto [near, far] = SocketPair();
  OtherPeer other(near.get(), false, client_, "NORMAL");
  other.SetMostOfRecord(512);
  std::string data(300'000, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 + i / 251);
  Side ours{.transport = Secured(std::move(far), MustLoad(server_settings_)), .says = data};
  std::string heard;
  int state = GNUTLS_E_AGAIN;
  for (int i = 0; i < 10'000 && heard.size() < data.size(); ++i) {
    if (state == GNUTLS_E_AGAIN) state = other.Handshake();
    ours.Step();
    char bytes[4096];
    ssize_t n = state == 0 ? other.Receive(bytes, sizeof(bytes)) : 0;
    if (n > 0) heard.append(bytes, static_cast<size_t>(n));
    ASSERT_LE(n, 512);
    ASSERT_EQ(ours.error, 0) << ours.transport->trouble();
  }
  EXPECT_TRUE(heard == data);
}

TEST_F(TlsRefusal, AnAddressIsComparedToo) {
  ca_.Issue(server_, {.common_name = "disk", .ip = "192.0.2.7"});
  auto [near, far] = SocketPair();
  Side a{.transport = Secured(std::move(near), MustLoad(client_settings_), "192.0.2.7"),
         .says = "x"};
  Side b{.transport = Secured(std::move(far), MustLoad(server_settings_))};
  Talk(&a, &b);
  EXPECT_EQ(b.heard, "x") << a.transport->trouble();
  ExpectRefused("is not for '192.0.2.8'", EACCES, "does not accept", EACCES, "192.0.2.8");
}

TEST_F(TlsRefusal, IsLeftOutWhereNobodyIsToBeVerified) {
  const TlsFolder bare;
  client_settings_.dir = bare.path();
  client_settings_.verify_peer = false;
  server_settings_.verify_peer = false;
  auto [near, far] = SocketPair();
  Side a{.transport = Secured(std::move(near), MustLoad(client_settings_), "anything"),
         .says = "x"};
  Side b{.transport = Secured(std::move(far), MustLoad(server_settings_))};
  Talk(&a, &b);
  EXPECT_EQ(b.heard, "x") << a.transport->trouble();
  EXPECT_TRUE(b.transport->peer().names.empty());
}

// --- Files that are wrong -----------------------------------------------------------------------

void ExpectBad(const TlsSettings& settings, const std::vector<std::string>& parts) {
  const auto loaded = TlsCredentials::Load(settings);
  ASSERT_FALSE(loaded.ok());
  for (const std::string& part : parts) {
    EXPECT_NE(loaded.status().message().find(part), std::string::npos) << loaded.status().message();
  }
}

TEST(TlsFiles, SayWhatIsWrongWithThem) {
  const Authority ca;
  TlsFolder folder;
  const TlsSettings server = X509Of(folder, Role::kServer);
  ExpectBad(server, {"ca-cert.pem", "No such file"});
  ca.Issue(folder, {});
  EXPECT_TRUE(TlsCredentials::Load(server).ok());
  folder.Write("server-key.pem", "garbage");
  ExpectBad(server, {"server-cert.pem", "server-key.pem"});
  remove((folder.path() + "/server-key.pem").c_str());
  ExpectBad(server, {"server-key.pem", "No such file"});
  folder.Write("ca-crl.pem", "garbage");
  ExpectBad(server, {"ca-crl.pem"});
  folder.Write("ca-cert.pem", "garbage");
  ExpectBad(server, {"ca-cert.pem", "PEM"});
  TlsSettings client = X509Of(folder, Role::kClient);
  client.priority = "NORMAL:+NONSENSE";
  ExpectBad(client, {"NORMAL:+NONSENSE", "priority"});
}

TEST(TlsFiles, OfKeysNameTheLineAndNotTheKey) {
  TlsFolder folder;
  const TlsSettings client = PskOf(folder, Role::kClient);
  ExpectBad(client, {"keys.psk", "No such file"});
  folder.Write("keys.psk", "alice:0102\nbob:5ec3e7not-hex\n");
  ExpectBad(client, {"keys.psk:2"});
  EXPECT_EQ(TlsCredentials::Load(client).status().message().find("5ec3e7"), std::string::npos);
  folder.Write("keys.psk", "bob:0102\n");
  ExpectBad(client, {"no key of 'alice'"});
  folder.Write("keys.psk", "# nothing\n\n");
  ExpectBad(client, {"holds no key"});
  folder.Write("keys.psk", "alice:0102\r\n");
  EXPECT_TRUE(TlsCredentials::Load(client).ok());
}

TEST(TlsFiles, SayWhichKindTheyAre) {
  TlsFolder folder;
  EXPECT_EQ(KindOfTlsFolder(folder.path()).status().error(), ENOENT);
  Authority().Trust(folder);
  EXPECT_EQ(*KindOfTlsFolder(folder.path()), TlsSettings::Kind::kX509);
  WriteKey(folder, "alice", 1);
  EXPECT_EQ(*KindOfTlsFolder(folder.path()), TlsSettings::Kind::kPsk);
}

}  // namespace
}  // namespace cloudblk::testing
