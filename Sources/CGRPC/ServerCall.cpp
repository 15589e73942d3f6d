#include "ServerCall.hpp"

#include <grpc/grpc_security_constants.h>

using cgrpc::Answers;
using cgrpc::Receiving;
using cgrpc::Sending;
using cgrpc::Waiting;
using Guard = std::lock_guard<std::mutex>;

void cgrpc_server_call::attach(void *context, void (*cancelled)(void *), void (*over)(void *)) {
    handler = context;
    onCancelled = cancelled;
    onOver = over;
}

void cgrpc_server_call::receive(Receiving receiving) {
    Answers answers;
    Guard guard(mutex);
    if (readsAreOver || finished || isBroken) {
        answers.add(receiving, nullptr, readsAreComplete && !isBroken);
        return;
    }
    receivings.push_back(receiving);
    if (!isReceiving) {
        isReceiving = true;
        StartRead(&incoming);
    }
}

void cgrpc_server_call::OnReadDone(bool ok) {
    bool isTooLarge;
    {
        Answers answers;
        Guard guard(mutex);
        isReceiving = false;
        cgrpc_message *message = ok ? cgrpc::message(incoming) : nullptr;
        isTooLarge = message != nullptr && message->count > maximumMessageCount;
        if (isTooLarge) {
            cgrpc_message_discard(message);
            refuseMessage(answers);
            readsAreOver = true;
        } else if (message != nullptr) {
            answers.add(receivings.front(), message, false);
            receivings.pop_front();
        } else {
            readsAreOver = true;
            // A broken connection ends the reads as the client's own end does; after a failed read gRPC
            // knows which it was. Mistaking one for the other would make half an upload look whole. (gRPC
            // 1.51 is mistaken only about a client that breaks HTTP/2, and drops a message that a
            // client cuts short by ending its stream: neither befalls an honest client.)
            readsAreComplete = !ok && !isBroken && !grpcContext->IsCancelled();
        }
        if (readsAreOver || finished || isBroken) {
            for (const auto &waiting : receivings) { answers.add(waiting, nullptr, readsAreComplete); }
            receivings.clear();
        } else if (!receivings.empty()) {
            isReceiving = true;
            StartRead(&incoming);
        }
    }
    if (isTooLarge) { tellCancelled(); }
}

/// gRPC's own limit is not used: it ends the reads in a way that looks like the client's end. The lock is held.
void cgrpc_server_call::refuseMessage(Answers &answers) {
    isBroken = true;
    messageIsRefused.store(true);
    if (finished) { return; }
    if (isSending) {
        // The client may never take what is being sent.
        grpcContext->TryCancel();
        return;
    }
    finishIsWanted = true;
    status = grpc::Status(
        grpc::StatusCode::RESOURCE_EXHAUSTED,
        "the message is larger than the server's limit of " + std::to_string(maximumMessageCount) + " bytes");
    hasLast = false;
    advance(answers);
}

void cgrpc_server_call::send(Sending sending) {
    Answers answers;
    Guard guard(mutex);
    if (finishIsWanted || isBroken) {
        answers.add(sending, false);
        return;
    }
    metadataIsSent = true;
    sendings.push_back(std::move(sending));
    advance(answers);
}

bool cgrpc_server_call::sendMetadata(const cgrpc_pair *metadata, size_t count, Waiting waiting) {
    Answers answers;
    Guard guard(mutex);
    if (finishIsWanted || isBroken) {
        answers.add(waiting, false);
        return true;
    }
    if (metadataIsSent) { return false; }
    metadataIsSent = true;
    for (size_t index = 0; index < count; index++) {
        grpcContext->AddInitialMetadata(cgrpc::string(metadata[index].key), cgrpc::string(metadata[index].value));
    }
    sendings.push_back({Sending::Kind::metadata, {}, waiting.context, waiting.done});
    advance(answers);
    return true;
}

/// Starts what is next. The lock is held.
void cgrpc_server_call::advance(Answers &answers) {
    if (isSending || finished) { return; }
    if (isBroken) {
        for (const auto &sending : sendings) { answers.add(sending, false); }
        sendings.clear();
    }
    if (!sendings.empty()) {
        isSending = true;
        if (sendings.front().kind == Sending::Kind::metadata) {
            StartSendInitialMetadata();
        } else {
            StartWrite(&sendings.front().bytes);
        }
    } else if (finishIsWanted) {
        finished = true;
        if (hasLast && status.ok() && !isBroken) {
            StartWriteAndFinish(&last, grpc::WriteOptions(), status);
        } else {
            Finish(status);
        }
    }
}

void cgrpc_server_call::sent(bool ok) {
    Answers answers;
    Guard guard(mutex);
    isSending = false;
    answers.add(sendings.front(), ok);
    sendings.pop_front();
    if (!ok) { isBroken = true; }
    advance(answers);
}

void cgrpc_server_call::finish(
    grpc::Status wanted, const cgrpc_pair *trailing, size_t count, const cgrpc_bytes *lastBytes) {
    grpc::ByteBuffer bytes;
    if (lastBytes != nullptr) { bytes = cgrpc::buffer(*lastBytes); }
    Answers answers;
    Guard guard(mutex);
    if (finishIsWanted) { return; }
    finishIsWanted = true;
    status = std::move(wanted);
    hasLast = lastBytes != nullptr;
    last.Swap(&bytes);
    for (size_t index = 0; index < count; index++) {
        grpcContext->AddTrailingMetadata(cgrpc::string(trailing[index].key), cgrpc::string(trailing[index].value));
    }
    advance(answers);
}

void cgrpc_server_call::cancel() {
    Guard guard(mutex);
    if (!finished) { grpcContext->TryCancel(); }
}

void cgrpc_server_call::OnCancel() {
    {
        Answers answers;
        Guard guard(mutex);
        isBroken = true;
        // Answered here, whatever the handler does: shutdown waits for every call to be finished.
        if (!finishIsWanted) {
            finishIsWanted = true;
            status = grpc::Status(grpc::StatusCode::CANCELLED, "");
        }
        advance(answers);
    }
    tellCancelled();
}

void cgrpc_server_call::OnDone() {
    onOver(handler);
    release();
}

void cgrpc_server_call::visitCertificate(void *context, cgrpc_visit visit) const {
    if (!authContext || !authContext->IsPeerAuthenticated()) { return; }
    auto values = authContext->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
    if (values.empty()) { return; }
    visit(context, {{nullptr, 0}, cgrpc::text(values.front())});
}

extern "C" {

void cgrpc_server_call_attach(
    cgrpc_server_call *call, void *context, void (*cancelled)(void *), void (*over)(void *)) {
    call->attach(context, cancelled, over);
}

void cgrpc_server_call_receive(cgrpc_server_call *call, void *context, cgrpc_received received) {
    call->receive({context, received});
}

void cgrpc_server_call_send(cgrpc_server_call *call, cgrpc_bytes bytes, void *context, cgrpc_done done) {
    call->send({Sending::Kind::message, cgrpc::buffer(bytes), context, done});
}

bool cgrpc_server_call_send_metadata(
    cgrpc_server_call *call, const cgrpc_pair *metadata, size_t count, void *context, cgrpc_done done) {
    return call->sendMetadata(metadata, count, {context, done});
}

void cgrpc_server_call_finish(
    cgrpc_server_call *call, cgrpc_status status, const cgrpc_pair *trailing, size_t count, const cgrpc_bytes *last) {
    grpc::Status wanted(static_cast<grpc::StatusCode>(status.code), cgrpc::string(status.message));
    call->finish(std::move(wanted), trailing, count, last);
}

void cgrpc_server_call_cancel(cgrpc_server_call *call) { call->cancel(); }

void cgrpc_server_call_peer_certificate(cgrpc_server_call *call, void *context, cgrpc_visit visit) {
    call->visitCertificate(context, visit);
}

bool cgrpc_server_call_has_refused(cgrpc_server_call *call) { return call->hasRefused(); }

void cgrpc_server_call_release(cgrpc_server_call *call) { call->release(); }

}  // extern "C"
