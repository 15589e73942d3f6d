#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "Support.hpp"

namespace {

template <auto function>
struct Free {
    template <class T>
    void operator()(T *value) const { function(value); }
};
using Source = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

/// No prompt for a passphrase: an encrypted key is an error.
int noPassphrase(char *, int, int, void *) { return 0; }

Source source(cgrpc_text text) {
    if (text.count == 0 || text.count > INT_MAX) { return nullptr; }
    return Source(BIO_new_mem_buf(text.start, static_cast<int>(text.count)));
}

/// The first certificate, if all of them can be read.
Certificate firstCertificate(cgrpc_text pem) {
    Source bio = source(pem);
    if (!bio) { return nullptr; }
    Certificate first(PEM_read_bio_X509(bio.get(), nullptr, noPassphrase, nullptr));
    if (!first) { return nullptr; }
    while (Certificate next{PEM_read_bio_X509(bio.get(), nullptr, noPassphrase, nullptr)}) {}
    // "No start line" is how the end of the text shows; anything else is a broken certificate.
    return ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE ? std::move(first) : nullptr;
}

const char *problem(const cgrpc_tls &tls) {
    Certificate leaf = firstCertificate(tls.chain);
    if (!leaf) { return "the certificate chain is not a sequence of PEM certificates"; }
    Source bio = source(tls.key);
    Key key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, noPassphrase, nullptr) : nullptr);
    if (!key) { return "the private key is not an unencrypted PEM key"; }
    if (X509_check_private_key(leaf.get(), key.get()) != 1) {
        return "the private key does not belong to the first certificate of the chain";
    }
    if (!firstCertificate(tls.roots)) { return "the trusted roots are not a sequence of PEM certificates"; }
    return nullptr;
}

}  // namespace

namespace cgrpc {

std::shared_ptr<grpc::ServerCredentials> serverCredentials(const cgrpc_tls *tls) {
    if (tls == nullptr) { return grpc::InsecureServerCredentials(); }
    grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_root_certs = string(tls->roots);
    options.pem_key_cert_pairs.push_back({string(tls->key), string(tls->chain)});
    return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> channelCredentials(const cgrpc_tls *tls) {
    if (tls == nullptr) { return grpc::InsecureChannelCredentials(); }
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = string(tls->roots);
    options.pem_private_key = string(tls->key);
    options.pem_cert_chain = string(tls->chain);
    return grpc::SslCredentials(options);
}

}  // namespace cgrpc

extern "C" bool cgrpc_tls_check(const cgrpc_tls *tls, char *reason, size_t capacity) {
    ERR_clear_error();
    const char *found = problem(*tls);
    ERR_clear_error();
    if (found == nullptr) { return true; }
    if (capacity > 0) {
        size_t count = std::min(std::strlen(found), capacity - 1);
        std::memcpy(reason, found, count);
        reason[count] = 0;
    }
    return false;
}
