// gRPC in C: method names, metadata, bytes and statuses; no message types.
//
// Rules that hold for every function and type below:
//
// - Every function may be called from any thread, and none of them blocks on the network.
// - A callback runs on a thread of gRPC (or, where an operation cannot be started any more, on the
//   calling thread before the function returns). It must not block, and it may call back into
//   this library.
// - Every operation that takes a callback calls it exactly once.
// - `context` is handed through untouched and may be null; whoever passes it keeps it alive until the
//   callback that ends its use.
// - A `cgrpc_text` is never terminated by a zero and is borrowed: it is valid during the call that
//   passes it, in either direction, unless its function says otherwise. `start` may be null if `count` is 0.
// - Objects are counted references: `…_release` gives the caller's one reference up, after which the
//   caller must not use the pointer again.

#ifndef CGRPC_H
#define CGRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __clang__
#pragma clang assume_nonnull begin
#else
#define _Nullable
#endif

// MARK: Values

typedef struct cgrpc_text {
    const char *_Nullable start;
    size_t count;
} cgrpc_text;

/// One entry of metadata. The key ends in "-bin" if the value is not text. The caller must have
/// checked that both are legal: gRPC ends the process otherwise.
typedef struct cgrpc_pair {
    cgrpc_text key;
    cgrpc_text value;
} cgrpc_pair;

/// Bytes to send. With an `owner` they are sent from where they are, must not change, and
/// `release(owner)` is called exactly once when nobody reads them any more, whatever becomes of the
/// call. Without one (`owner` and `release` null) they are copied before the function returns.
typedef struct cgrpc_bytes {
    const uint8_t *_Nullable start;
    size_t count;
    void *_Nullable owner;
    void (*_Nullable release)(void *_Nullable owner);
} cgrpc_bytes;

/// How a call ended: the numbers of gRPC's status codes, 0 meaning success.
typedef struct cgrpc_status {
    int32_t code;
    cgrpc_text message;
} cgrpc_status;

/// PEM texts: this side's certificates (leaf first) and private key, and the roots that the other side's
/// certificate must lead to. `expected_name` (clients only, may be empty) replaces the host name in the
/// check of the server's certificate.
typedef struct cgrpc_tls {
    cgrpc_text chain;
    cgrpc_text key;
    cgrpc_text roots;
    cgrpc_text expected_name;
} cgrpc_tls;

/// Whether the certificates can be read and the key belongs to the first of them. If not, a reason that
/// ends with a zero is written to `reason`, cut at `capacity`.
bool cgrpc_tls_check(const cgrpc_tls *tls, char *reason, size_t capacity);

// MARK: Received messages

/// A received message, owned by whoever received it: give it to exactly one of `take` and `discard`.
typedef struct cgrpc_message cgrpc_message;

size_t cgrpc_message_count(const cgrpc_message *message);

/// Copies all bytes of the message to `destination`, which has room for them, and frees the message.
void cgrpc_message_take(cgrpc_message *message, uint8_t *_Nullable destination);

void cgrpc_message_discard(cgrpc_message *message);

// MARK: Completions

/// `ok` is false if the call ended before the operation could be done.
typedef void (*cgrpc_done)(void *_Nullable context, bool ok);

/// With a message: it is the callee's. Without: no message will ever come; `complete` then tells whether
/// the other side said so itself (true) or the call broke (false).
typedef void (*cgrpc_received)(void *_Nullable context, cgrpc_message *_Nullable message, bool complete);

/// Called for each entry in turn, before the function that was given it returns.
typedef void (*cgrpc_visit)(void *_Nullable context, cgrpc_pair pair);

// MARK: Server

typedef struct cgrpc_server cgrpc_server;
typedef struct cgrpc_server_call cgrpc_server_call;

/// Milliseconds throughout; 0 leaves gRPC's default.
typedef struct cgrpc_server_options {
    int32_t maximum_message_count;
    int32_t maximum_metadata_count;
    int32_t maximum_streams;
    int32_t keepalive_interval;
    int32_t keepalive_timeout;
    int32_t minimum_ping_interval;
    int32_t handshake_timeout;
    int32_t maximum_idle;
    /// Of each TCP port; further ones are closed at once. 0: any number.
    int32_t maximum_connections;
    int64_t memory_quota_count;
} cgrpc_server_options;

/// What is known of a call when it arrives. All of it is borrowed for the time of the callback.
typedef struct cgrpc_arrival {
    cgrpc_text method;
    cgrpc_text peer;
    const cgrpc_pair *_Nullable metadata;
    size_t metadata_count;
    /// Nanoseconds left, not above INT64_MAX; negative if the client set no deadline.
    int64_t time_left;
} cgrpc_arrival;

/// Receives each new call with a reference to it. Must call `cgrpc_server_call_attach` before returning.
typedef void (*cgrpc_accept)(void *_Nullable context, cgrpc_server_call *call, const cgrpc_arrival *arrival);

/// - refused: called for each connection that was closed because there were too many; it must be quick.
/// - release: called with `context` when no call of `accept` or `refused` can come any more.
cgrpc_server *cgrpc_server_create(
    const cgrpc_server_options *options, void *_Nullable context, cgrpc_accept accept,
    void (*refused)(void *_Nullable context), void (*release)(void *_Nullable context));

/// Adds an address ("unix:/run/a.sock") for `start` to listen on. Without `tls` it is plaintext; with it each client
/// must show a certificate that leads to the roots.
void cgrpc_server_add(cgrpc_server *server, cgrpc_text address, const cgrpc_tls *_Nullable tls);

/// The same with a TCP socket that is bound, and is taken over.
void cgrpc_server_add_port(cgrpc_server *server, int32_t descriptor, const cgrpc_tls *_Nullable tls);

/// Binds all addresses and begins to accept calls. At most once.
/// - Returns: -1, or the index of the first address, in the order in which they were added, that could not be bound or
///   listened on (nothing is bound then).
int32_t cgrpc_server_start(cgrpc_server *server);

/// Accepts nothing more, lets running calls end for `grace` nanoseconds, cancels the rest, and calls
/// `done` (with true) when all calls are over for gRPC. At most once, after a successful start.
void cgrpc_server_shutdown(cgrpc_server *server, int64_t grace, void *_Nullable context, cgrpc_done done);

/// A running server is shut down in the background without grace.
void cgrpc_server_release(cgrpc_server *server);

// MARK: Calls on the server

/// - cancelled: called at most once, when the client cancelled, its deadline passed or the connection
///   broke; possibly also when the call was just finished. gRPC is already answered by then.
/// - over: called exactly once, last of all, when gRPC is done with the call.
void cgrpc_server_call_attach(
    cgrpc_server_call *call, void *_Nullable context, void (*cancelled)(void *_Nullable context),
    void (*over)(void *_Nullable context));

/// Several may wait at once; they are served in order.
void cgrpc_server_call_receive(cgrpc_server_call *call, void *_Nullable context, cgrpc_received received);

/// Completes when gRPC took the message. Several may wait at once; they are sent in order.
void cgrpc_server_call_send(cgrpc_server_call *call, cgrpc_bytes bytes, void *_Nullable context, cgrpc_done done);

/// - Returns: false, and `done` is not called, if initial metadata has been sent already, be it
///   implicitly with a first message.
bool cgrpc_server_call_send_metadata(
    cgrpc_server_call *call, const cgrpc_pair *_Nullable metadata, size_t count, void *_Nullable context,
    cgrpc_done done);

/// Ends the call after the messages that wait to be sent, `last` (if any) being sent along with a status of 0
/// and dropped with another. Only the first time counts, and not at all after `cancelled`.
void cgrpc_server_call_finish(
    cgrpc_server_call *call, cgrpc_status status, const cgrpc_pair *_Nullable trailing, size_t count,
    const cgrpc_bytes *_Nullable last);

/// Ends the call at once for both sides; everything that waits completes without success.
void cgrpc_server_call_cancel(cgrpc_server_call *call);

/// Shows the certificate that the client proved to own, in PEM (empty if it showed none), as the value of one pair.
void cgrpc_server_call_peer_certificate(cgrpc_server_call *call, void *_Nullable context, cgrpc_visit visit);

/// Whether it was ended because a message of the client was too large.
bool cgrpc_server_call_has_refused(cgrpc_server_call *call);

void cgrpc_server_call_release(cgrpc_server_call *call);

// MARK: Client

typedef struct cgrpc_channel cgrpc_channel;
typedef struct cgrpc_unary cgrpc_unary;
typedef struct cgrpc_client_call cgrpc_client_call;

/// Milliseconds throughout; 0 leaves gRPC's default.
typedef struct cgrpc_channel_options {
    int32_t maximum_message_count;
    int32_t maximum_metadata_count;
    int32_t initial_backoff;
    int32_t maximum_backoff;
    int32_t connect_timeout;
    int32_t keepalive_interval;
    int32_t keepalive_timeout;
    bool keepalive_without_calls;
    int64_t memory_quota_count;
} cgrpc_channel_options;

typedef struct cgrpc_call_options {
    cgrpc_text method;
    const cgrpc_pair *_Nullable metadata;
    size_t metadata_count;
    /// Nanoseconds; negative for none.
    int64_t timeout;
    bool wait_for_ready;
} cgrpc_call_options;

/// - target: in gRPC's naming syntax: "unix:/run/a.sock", "ipv4:127.0.0.1:80", "dns:///host:80".
cgrpc_channel *cgrpc_channel_create(
    cgrpc_text target, const cgrpc_tls *_Nullable tls, const cgrpc_channel_options *options);

/// Cancels all calls of the channel and refuses new ones.
void cgrpc_channel_close(cgrpc_channel *channel);

/// Calls that are still running go on.
void cgrpc_channel_release(cgrpc_channel *channel);

/// - message: null unless `status.code` is 0, else the callee's.
typedef void (*cgrpc_answered)(void *_Nullable context, cgrpc_status status, cgrpc_message *_Nullable message);

/// - Returns: null if the channel is closed; then `answered` is not called, though `request` is released.
cgrpc_unary *_Nullable cgrpc_channel_unary(
    cgrpc_channel *channel, const cgrpc_call_options *options, cgrpc_bytes request, void *_Nullable context,
    cgrpc_answered answered);

void cgrpc_unary_cancel(cgrpc_unary *call);
void cgrpc_unary_release(cgrpc_unary *call);

/// - Returns: null if the channel is closed.
cgrpc_client_call *_Nullable cgrpc_channel_open(cgrpc_channel *channel, const cgrpc_call_options *options);

/// As on the server. Completes without success once the call has ended, and after `finish_sending`.
void cgrpc_client_call_send(cgrpc_client_call *call, cgrpc_bytes bytes, void *_Nullable context, cgrpc_done done);

void cgrpc_client_call_finish_sending(cgrpc_client_call *call, void *_Nullable context, cgrpc_done done);

/// Completes without a message only when the status of the call is known.
void cgrpc_client_call_receive(cgrpc_client_call *call, void *_Nullable context, cgrpc_received received);

/// Completes when the server's initial metadata has come, without success if it never will.
void cgrpc_client_call_await_metadata(cgrpc_client_call *call, void *_Nullable context, cgrpc_done done);

/// Visits nothing before `await_metadata` completed with success.
void cgrpc_client_call_initial_metadata(cgrpc_client_call *call, void *_Nullable context, cgrpc_visit visit);

/// Visits nothing before the status is known.
void cgrpc_client_call_trailing_metadata(cgrpc_client_call *call, void *_Nullable context, cgrpc_visit visit);

/// - Returns: whether the call has ended; then `status` is set, its text valid as long as the reference.
bool cgrpc_client_call_status(cgrpc_client_call *call, cgrpc_status *status);

void cgrpc_client_call_cancel(cgrpc_client_call *call);

/// Cancels the call if it has not ended.
void cgrpc_client_call_release(cgrpc_client_call *call);

// MARK: Gathering

/// As a channel's `keepalive_timeout`, which is its connection's TCP_USER_TIMEOUT: marks it as one of which packets may gather.
enum { cgrpc_gathering_timeout = 10001 };

/// Lets packets of all marked connections gather, until as many ends as begins.
void cgrpc_gathering_begin(void);
void cgrpc_gathering_end(void);

// MARK: Library

/// Sends gRPC's own log lines to `write` from now on; `severity` is 0 (debug), 1 (information) or 2 (error).
/// `write` may be called by any thread until the process ends. Null drops them all.
void cgrpc_set_log(void (*_Nullable write)(int32_t severity, cgrpc_text line), int32_t minimum_severity);

#ifdef __clang__
#pragma clang assume_nonnull end
#endif

#ifdef __cplusplus
}
#endif

#endif
