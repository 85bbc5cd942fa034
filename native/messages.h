// Messages between the processes of a deployment: penstock/engine/messages.py.
#pragma once

#include <functional>
#include <utility>

#include "agenda.h"

namespace penstock {

class Messages final : public Actor {
 public:
  using Deliver = std::function<void(int64_t)>;

  Messages(Agenda& agenda, int64_t place) : Actor(Phase::MESSAGE, place), agenda_(agenda) {}

  int64_t acts_ns() const override { return next_ns_; }

  // Call `deliver(arrives_ns)` then.
  void send(int64_t arrives_ns, Deliver deliver) {
    under_way_.push_back(Message{arrives_ns, sent_++, std::move(deliver)});
    std::push_heap(under_way_.begin(), under_way_.end(), later);
    if (arrives_ns < next_ns_) {
      next_ns_ = arrives_ns;
      agenda_.wake(*this, arrives_ns);
    }
  }

  void act(int64_t limit_ns) override {
    while (!under_way_.empty() && under_way_.front().at_ns < limit_ns) {
      std::pop_heap(under_way_.begin(), under_way_.end(), later);
      const Message message = std::move(under_way_.back());
      under_way_.pop_back();
      message.deliver(message.at_ns);
    }
    next_ns_ = under_way_.empty() ? NEVER : under_way_.front().at_ns;
  }

 private:
  struct Message {
    int64_t at_ns, number;
    Deliver deliver;
  };

  Agenda& agenda_;
  int64_t next_ns_ = NEVER, sent_ = 0;
  std::vector<Message> under_way_;

  static bool later(const Message& one, const Message& other) {
    return std::tie(one.at_ns, one.number) > std::tie(other.at_ns, other.number);
  }
};

}  // namespace penstock
