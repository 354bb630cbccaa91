// SPDX-License-Identifier: GPL-2.0-or-later
//
// What can go wrong with TLS, in words for people, and whether it can pass by itself.
#ifndef CLOUDBLK_BASE_TLS_TROUBLE_H_
#define CLOUDBLK_BASE_TLS_TROUBLE_H_

#include <gnutls/gnutls.h>

#include <cstdint>
#include <span>
#include <string>

namespace cloudblk {

class TlsCredentials;

struct TlsTrouble {
  // A positive errno. EACCES: a proof was not accepted, ours or the peer's. EPROTO: the peer does
  // not speak TLS 1.3. Neither passes by itself. ECONNRESET: the connection was cut; ECONNABORTED:
  // what goes over it is damaged.
  int error = 0;
  std::string text{};
};

// What `error`, which is fatal, says of the session. `handshaken`: the handshake is over.
TlsTrouble DescribeTls(const TlsCredentials& credentials, gnutls_session_t session, int error,
                       bool handshaken);
// The peer, at its first bytes.
TlsTrouble NotTls(bool is_server);
// Whether a peer that was to speak in clear text begins with TLS instead.
bool LooksLikeTls(std::span<const uint8_t> first_bytes);
TlsTrouble CutOff(bool is_server, bool handshaken);

// Of a certificate that was not verified: why, and the alert that tells the peer.
struct TlsRefusal {
  std::string text;
  gnutls_alert_description_t alert;
};
// `status` as gnutls_certificate_verify_peers has it; `hostname`: what a server is to be called, as
// a client asked for.
TlsRefusal DescribeRefusal(unsigned status, bool is_server, const std::string& hostname);

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_TROUBLE_H_
