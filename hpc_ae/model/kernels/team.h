// A team of threads for work that is shorter than waking a sleeping thread: members spin between two pieces of work,
// and yield when they have waited long, so that a busy machine gets its core back. It lives for one call only.

#pragma once
#include <atomic>
#include <thread>
#include <vector>

class Team {
 public:
  explicit Team(int size) {
    for (int member = 1; member < size; ++member) threads_.emplace_back([this, member] { serve(member); });
  }
  Team(const Team&) = delete;
  ~Team() {
    ending_ = true;
    round_.fetch_add(1, std::memory_order_release);
    for (auto& thread : threads_) thread.join();
  }
  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // work(member) once for each member, at the same time; returns when all have ended.
  template <typename Work>
  void run(Work&& work) {
    call_ = [](void* self, int member) { (*static_cast<Work*>(self))(member); };
    work_ = &work;
    waiting_.store(size() - 1, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    work(0);
    for (int spins = 0; waiting_.load(std::memory_order_acquire) != 0;) relax(spins);
  }

 private:
  static void relax(int& spins) {
    if (++spins > 4000) std::this_thread::yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
  }
  void serve(int member) {
    for (int seen = 0;; ++seen) {
      for (int spins = 0; round_.load(std::memory_order_acquire) == seen;) relax(spins);
      if (ending_) return;
      call_(work_, member);
      waiting_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::atomic<int> round_{0}, waiting_{0};
  bool ending_ = false;  // written before, read after round_
  void (*call_)(void*, int) = nullptr;
  void* work_ = nullptr;
};
