// Where KV blocks come from and go to beside the pool: penstock/scheduler/kv_connector.py, with the workers of
// penstock/kv_transfer/step_workers.py.
#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace penstock {

// What a connector has of a request that asks for it.
struct Match {
  int64_t tokens = 0;
  bool loads = false;
  int64_t reserved_blocks = 0;
  bool is_known = true;  // otherwise it says when to ask again
};

// What the workers saw in a step.
struct TransferReport {
  std::vector<Request*> loaded, discarded, first_tokens, unloadable, released;

  void clear() {
    for (std::vector<Request*>* list : {&loaded, &discarded, &first_tokens, &unloadable, &released}) list->clear();
  }
};

class Connector {
 public:
  const bool writes_blocks, must_deliver;

  Connector(bool writes_blocks, bool must_deliver) : writes_blocks(writes_blocks), must_deliver(must_deliver) {}
  virtual ~Connector() = default;

  virtual void added(Request* state) = 0;
  // Requests to be asked for again.
  virtual void called(int64_t now, std::vector<Request*>& called) = 0;
  virtual Match matched_tokens(Request* state, int64_t computed) = 0;
  virtual void allocated(Request* state, int64_t hit_blocks, int64_t external_tokens) = 0;
  // Whether its blocks are held until a report releases them.
  virtual bool finished(Request* state, int64_t now) = 0;
  virtual bool has_work() = 0;

  // A step was decided and sent off; `arrive, start, end` of every stage, or three times when an empty one passes it.
  virtual void sent(const Step& step, int64_t now, const int64_t* times) = 0;
  // The oldest step is back; whether there is something to report.
  virtual bool came_back(int64_t at, TransferReport& report) = 0;
  // A step without tokens was sent off at `now`, in a quiet time, and the oldest one is back.
  virtual void passed_by(int64_t now) = 0;
  // Until when turns give it nothing to tell the workers, and it has nothing to report.
  virtual int64_t quiet_until_ns() = 0;
};

}  // namespace penstock
