// What OpenSSL takes for its stream: the buffers of a TlsSession. Shard's thread.
#pragma once

struct bio_st;
struct bio_method_st;

namespace shoal {

class TlsSession;

// Null when there is no memory. One per TlsContext.
bio_method_st* make_tls_bio_method();
void free_tls_bio_method(bio_method_st* method);
// Reads what has come for the session, writes to what waits to be sent.
bio_st* make_tls_bio(const bio_method_st* method, TlsSession& session);

}  // namespace shoal
