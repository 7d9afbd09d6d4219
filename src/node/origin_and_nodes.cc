#include "node/origin_and_nodes.h"

#include "origin/forwarding_origin.h"

namespace shoal {

namespace {

class OriginAndNodes final : public ForwardingOrigin {
 public:
  OriginAndNodes(Origin& origin, Replication& replication)
      : ForwardingOrigin(origin), replication_(replication) {}

  Task<Status> read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                    std::function<void(uint64_t)> progress, Context context) override {
    if (auto write = is_unuploaded(etag) ? WriteName::parse(etag) : std::nullopt) {
      return replication_.read(std::move(object), *write, offset, into, std::move(progress),
                               context);
    }
    return origin_.read(std::move(object), std::move(etag), offset, into, std::move(progress),
                        context);
  }

 private:
  Replication& replication_;
};

}  // namespace

std::unique_ptr<Origin> make_origin_and_nodes(Origin& origin, Replication& replication) {
  return std::make_unique<OriginAndNodes>(origin, replication);
}

}  // namespace shoal
