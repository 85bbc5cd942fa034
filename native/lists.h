// Lists whose links are in their members: in the order in which members came, any of them out in constant time.
#pragma once

#include <cstdint>

namespace penstock {

// Memory that is about to be read, and that nobody has touched for long.
inline void prefetch(const void* memory) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(memory);
#else
  (void)memory;
#endif
}

template <class T>
struct Link {
  T* prev = nullptr;
  T* next = nullptr;
};

template <class T, Link<T> T::*link>
class List {
 public:
  T* first() const { return first_; }
  T* last() const { return last_; }
  static T* after(const T* one) { return (one->*link).next; }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  void append(T* one) {
    (one->*link).prev = last_;
    (one->*link).next = nullptr;
    if (last_) (last_->*link).next = one; else first_ = one;
    last_ = one;
    ++size_;
  }

  void prepend(T* one) {
    (one->*link).prev = nullptr;
    (one->*link).next = first_;
    if (first_) (first_->*link).prev = one; else last_ = one;
    first_ = one;
    ++size_;
  }

  // Before a member, or behind all where there is none.
  void insert_before(T* member, T* one) {
    if (!member) return append(one);
    T* prev = (member->*link).prev;
    if (!prev) return prepend(one);
    (one->*link).prev = prev;
    (one->*link).next = member;
    (prev->*link).next = one;
    (member->*link).prev = one;
    ++size_;
  }

  void remove(T* one) {
    Link<T>& place = one->*link;
    if (place.prev) (place.prev->*link).next = place.next; else first_ = place.next;
    if (place.next) (place.next->*link).prev = place.prev; else last_ = place.prev;
    place.prev = place.next = nullptr;
    --size_;
  }

  // Forget all members without touching their links.
  void clear() {
    first_ = last_ = nullptr;
    size_ = 0;
  }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace penstock
