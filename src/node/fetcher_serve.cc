// Fetcher: what other nodes get.
#include <algorithm>

#include "node/internal/fetch.h"

namespace shoal {

namespace {
// So much is lent from the cache file at a time.
constexpr uint64_t kServeStep = 4 * kMiB;
}  // namespace

Task<Status> Fetcher::serve_present(Range part, uint64_t base, RpcResponder& responder) {
  // Checksums are of whole pieces: a part always begins at one and ends at one or at the end.
  auto loan = co_await file_->lend(part);
  if (!loan) co_return fail(std::move(loan).error());
  co_return co_await responder.send_file(part.offset - base, (*loan)->file, part.offset,
                                         part.length, (*loan)->crcs);
}

// Sends from a running fetch what has arrived from `*at` on, waiting for at least one piece.
Task<Status> Fetcher::serve_arriving(std::shared_ptr<Fetch> fetch, uint64_t* at,
                                     const ServeRequest& request, RpcResponder& responder,
                                     Context context) {
  uint64_t from = *at - fetch->range.offset;
  while (fetch->checked() <= from && !fetch->done) {
    // Whoever asks for what is there may be the one that this fetch waits for.
    if (request.only_cached && fetch->via_peers) {
      co_return fail(Code::kNotFound, object_ + " is on its way here from another node");
    }
    if (request.role == FetchRole::kOwner && !request.only_cached && fetch->via_peers &&
        core_.map_version() > request.map_version) {
      co_return fail(Code::kConflict, "this node waits for another owner of the chunk");
    }
    SHOAL_CO_RETURN_IF_ERROR(co_await fetch->changed.wait(context));
  }
  uint64_t wanted = request.range.end() - fetch->range.offset;
  uint64_t ready = std::min(fetch->checked(), wanted);
  if (ready <= from) co_return fetch->status;
  std::span<const uint32_t> crcs(fetch->crcs);
  uint64_t first = from / kPieceBytes;
  uint64_t count = (ready - from + kPieceBytes - 1) / kPieceBytes;
  // The vector may grow, and so move, while we send: the checksums are copied.
  std::vector<uint32_t> mine(crcs.begin() + static_cast<ptrdiff_t>(first),
                             crcs.begin() + static_cast<ptrdiff_t>(first + count));
  SHOAL_CO_RETURN_IF_ERROR(co_await responder.send(
      *at - request.range.offset, fetch->buffer.span().subspan(from, ready - from), mine));
  *at += ready - from;
  co_return Status();
}

Task<Status> Fetcher::serve(ServeRequest request, RpcResponder& responder, Context context) {
  std::shared_ptr<Fetcher> self = shared_from_this();
  const Range range = request.range;
  uint64_t at = range.offset;
  int refetched = 0;
  while (at < range.end()) {
    uint64_t step = std::min(kServeStep, range.end() - at);
    std::vector<Range> missing = file_->missing({at, step});
    uint64_t present_end = missing.empty() ? at + step : std::max(at, missing[0].offset);
    if (present_end > at) {
      Range part{at, present_end - at};
      Status sent = co_await serve_present(part, range.offset, responder);
      if (!sent && sent.error().code() == Code::kCorrupt && ++refetched < 4) continue;
      SHOAL_CO_RETURN_IF_ERROR(std::move(sent));
      core_.metrics.served_bytes.add(part.length);
      at = present_end;
      continue;
    }
    if (std::shared_ptr<Fetch> fetch = find(at)) {
      uint64_t before = at;
      SHOAL_CO_RETURN_IF_ERROR(
          co_await serve_arriving(std::move(fetch), &at, request, responder, context));
      core_.metrics.served_bytes.add(at - before);
      continue;
    }
    if (request.only_cached) co_return fail(Code::kNotFound, object_ + " is not cached here");
    SHOAL_CO_RETURN_IF_ERROR(
        co_await demand({at, range.end() - at}, request.role, request.bulk, context));
  }
  co_return Status();
}

}  // namespace shoal
