/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The credentials of tls-creds: QEMU's object says where they are, and libcloudblk
 * loads them. QEMU's own, of the object's class, are of no use here: its way to
 * them differs from release to release.
 */
#include "cloudblk-device.h"

#include "qapi/qapi-types-crypto.h"

#define TYPE_X509 "tls-creds-x509"
#define TYPE_PSK "tls-creds-psk"

static bool is_set(const char *text)
{
    return text && *text;
}

bool cloudblk_tls_find(CloudblkDevice *dev, CloudblkTls *tls, Error **errp)
{
    const char *id = dev->conf.tls_creds;
    Object *creds = object_resolve_path_component(object_get_objects_root(), id);
    g_autofree char *password = NULL;
    Error *err = NULL;
    int endpoint;

    if (!creds) {
        error_setg(errp,
                   "no object '%s' for tls-creds; add -object " TYPE_X509
                   ",id=%s,dir=DIR,endpoint=client",
                   id, id);
        return false;
    }
    tls->psk = object_dynamic_cast(creds, TYPE_PSK);
    if (!tls->psk && !object_dynamic_cast(creds, TYPE_X509)) {
        error_setg(errp,
                   "object '%s' is a %s; tls-creds takes a " TYPE_X509
                   " or " TYPE_PSK,
                   id, object_get_typename(creds));
        return false;
    }
    endpoint = object_property_get_enum(creds, "endpoint",
                                        "QCryptoTLSCredsEndpoint", &err);
    if (!err && endpoint != QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT) {
        error_setg(&err, "object '%s' has the endpoint of a server; say "
                         "endpoint=client", id);
    }
    if (!err && !tls->psk) {
        password = object_property_get_str(creds, "passwordid", &err);
        if (!err && is_set(password)) {
            error_setg(&err, "object '%s' has a passwordid, which a disk cannot "
                             "use; take the password off client-key.pem", id);
        }
    }
    if (err) {
        error_propagate(errp, err);
        return false;
    }
    tls->dir = object_property_get_str(creds, "dir", &error_abort);
    tls->priority = object_property_get_str(creds, "priority", &error_abort);
    tls->verify_peer =
        object_property_get_bool(creds, "verify-peer", &error_abort);
    if (tls->psk) {
        tls->username =
            object_property_get_str(creds, "username", &error_abort);
    }
    tls->hostname = dev->conf.tls_hostname;
    return true;
}

void cloudblk_tls_clear(CloudblkTls *tls)
{
    g_free((char *)tls->dir);
    g_free((char *)tls->priority);
    g_free((char *)tls->username);
}
