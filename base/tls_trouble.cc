// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_trouble.h"

#include <cerrno>

#include "base/tls_credentials.h"

namespace cloudblk {
namespace {

const char* Peer(bool is_server) { return is_server ? "the client" : "the server"; }

std::string Advice(const TlsCredentials& credentials) {
  if (credentials.is_psk()) {
    return credentials.is_server() ? "compare its identity and key with keys.psk"
                                   : "compare the key of '" + credentials.settings().username +
                                         "' in both sides' keys.psk";
  }
  return std::string("check ") + (credentials.is_server() ? "server" : "client") +
         "-cert.pem, and the ca-cert.pem and ca-crl.pem of the other side";
}

// The alert that the peer has ended the connection with.
TlsTrouble DescribeAlert(const TlsCredentials& credentials, gnutls_alert_description_t alert) {
  const std::string peer = Peer(credentials.is_server());
  const std::string said = std::string(" (") + gnutls_alert_get_name(alert) + ")";
  const std::string ours = credentials.is_psk() ? "our key" : "our certificate";
  switch (alert) {
    case GNUTLS_A_BAD_CERTIFICATE:
    case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
    case GNUTLS_A_CERTIFICATE_UNKNOWN:
    case GNUTLS_A_UNKNOWN_CA:
    case GNUTLS_A_CERTIFICATE_EXPIRED:
    case GNUTLS_A_CERTIFICATE_REVOKED:
    case GNUTLS_A_DECRYPT_ERROR:
    case GNUTLS_A_ACCESS_DENIED:
    case GNUTLS_A_UNKNOWN_PSK_IDENTITY:
      return {EACCES, peer + " does not accept " + ours + said + "; " + Advice(credentials)};
    case GNUTLS_A_CERTIFICATE_REQUIRED:
      return {EACCES, peer + " wants a certificate" + said +
                          "; put client-cert.pem and client-key.pem into " +
                          credentials.settings().dir};
    case GNUTLS_A_ILLEGAL_PARAMETER:
      // What GnuTLS says to a key that does not fit.
      if (credentials.is_psk()) {
        return {EACCES, peer + " does not accept " + ours + said + "; " + Advice(credentials)};
      }
      break;
    case GNUTLS_A_PROTOCOL_VERSION:
      return {EPROTO, peer + " does not speak TLS 1.3" + said + "; make it do so"};
    case GNUTLS_A_HANDSHAKE_FAILURE:
    case GNUTLS_A_INSUFFICIENT_SECURITY:
    case GNUTLS_A_MISSING_EXTENSION:
      return {EPROTO, peer + " has no TLS 1.3 cipher or kind of credentials in common with us" +
                          said +
                          "; is one side set up for certificates and the other for keys (PSK)?"};
    case GNUTLS_A_INTERNAL_ERROR:
    case GNUTLS_A_USER_CANCELED:
      return {ECONNRESET, peer + " has given up the connection" + said};
    default:
      break;
  }
  return {ECONNABORTED, peer + " has ended the TLS connection" + said};
}

}  // namespace

TlsTrouble DescribeTls(const TlsCredentials& credentials, gnutls_session_t session, int error,
                       bool handshaken) {
  const bool server = credentials.is_server();
  const std::string peer = Peer(server);
  const std::string said = std::string(" (") + gnutls_strerror(error) + ")";
  switch (error) {
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
      return DescribeAlert(credentials, gnutls_alert_get(session));
    case GNUTLS_E_PREMATURE_TERMINATION:
      return CutOff(server, handshaken);
    case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
    case GNUTLS_E_RECORD_OVERFLOW:
    case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
      if (handshaken) break;
      return {EPROTO, peer + " does not speak TLS 1.3" + said + "; make it do so"};
    case GNUTLS_E_NO_CIPHER_SUITES:
    case GNUTLS_E_NO_COMMON_KEY_SHARE:
    case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
    case GNUTLS_E_UNKNOWN_CIPHER_SUITE:
    case GNUTLS_E_MISSING_EXTENSION:
      return {EPROTO, peer + " has no TLS 1.3 cipher or kind of credentials in common with us" +
                          said +
                          "; is one side set up for certificates and the other for keys (PSK)?"};
    case GNUTLS_E_CERTIFICATE_REQUIRED:
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
      return {EACCES, peer + " has no certificate" + said + "; give it one"};
    case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
    case GNUTLS_E_DECRYPTION_FAILED:
      if (handshaken || !credentials.is_psk()) break;
      return {EACCES, peer + "'s key is not ours" + said + "; " + Advice(credentials)};
    case GNUTLS_E_MEMORY_ERROR:
      return {ENOMEM, "out of memory for TLS"};
    default:
      break;
  }
  return {ECONNABORTED,
          std::string(handshaken ? "what came over TLS is damaged" : "the TLS handshake failed") +
              said};
}

TlsTrouble NotTls(bool is_server) {
  return {EPROTO, is_server ? "the client speaks clear text and this address wants TLS; give it "
                              "credentials and an address that asks for TLS (cloudblks://)"
                            : "the server does not speak TLS at this address; use another port, or "
                              "ask for clear text (cloudblk://)"};
}

bool LooksLikeTls(std::span<const uint8_t> first_bytes) {
  // A record with an alert or a part of a handshake, of any version since SSL 3.0.
  return first_bytes.size() >= 2 && (first_bytes[0] == 21 || first_bytes[0] == 22) &&
         first_bytes[1] == 3;
}

TlsTrouble CutOff(bool is_server, bool handshaken) {
  return {ECONNRESET, std::string(Peer(is_server)) +
                          (handshaken ? " is gone without the end of the TLS stream"
                                      : " closed the connection during the TLS handshake")};
}

TlsRefusal DescribeRefusal(unsigned status, bool is_server, const std::string& hostname) {
  const std::string whose = std::string(Peer(is_server)) + "'s certificate ";
  if ((status & GNUTLS_CERT_REVOKED) != 0) {
    return {whose + "was revoked; give it another", GNUTLS_A_CERTIFICATE_REVOKED};
  }
  if ((status & GNUTLS_CERT_EXPIRED) != 0) {
    return {whose + "has expired; renew it", GNUTLS_A_CERTIFICATE_EXPIRED};
  }
  if ((status & GNUTLS_CERT_NOT_ACTIVATED) != 0) {
    return {whose + "is not yet valid; check its dates and the clocks",
            GNUTLS_A_CERTIFICATE_EXPIRED};
  }
  if ((status & (GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED |
                 GNUTLS_CERT_REVOCATION_DATA_ISSUED_IN_FUTURE)) != 0) {
    return {whose + "cannot be looked up: our ca-crl.pem is out of date; renew it",
            GNUTLS_A_CERTIFICATE_UNKNOWN};
  }
  if ((status & GNUTLS_CERT_UNEXPECTED_OWNER) != 0) {
    return {whose + "is not for '" + hostname +
                "'; connect by a name that is in it, or give that with tls-hostname",
            GNUTLS_A_BAD_CERTIFICATE};
  }
  if ((status & GNUTLS_CERT_PURPOSE_MISMATCH) != 0) {
    return {whose + "is not made for that side of TLS; issue one with the right key purpose",
            GNUTLS_A_UNSUPPORTED_CERTIFICATE};
  }
  if ((status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA)) != 0) {
    return {
        whose + "is signed by nobody in our ca-cert.pem; put its CA there if it is to be trusted",
        GNUTLS_A_UNKNOWN_CA};
  }
  gnutls_datum_t text{};
  std::string why = "is not trusted";
  if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
    why = std::string("is not trusted: ") + reinterpret_cast<const char*>(text.data);
    gnutls_free(text.data);
  }
  return {whose + why, GNUTLS_A_BAD_CERTIFICATE};
}

}  // namespace cloudblk
