// SPDX-License-Identifier: GPL-2.0-or-later
//
// A request of a client on its way through the proxy.
#ifndef CLOUDBLK_PROXY_JOB_H_
#define CLOUDBLK_PROXY_JOB_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "proxy-protocol/wire.h"
#include "proxy/backend.h"

namespace cloudblk::proxy {

struct Job : IoOp {
  uint64_t tag = 0;
  wire::StatusCode status = wire::StatusCode::kOk;  // of the reply
  uint32_t payload_length = 0;                      // bytes that come with the request
  uint32_t read_length = 0;                         // bytes of a READ's data
  Job* next_job = nullptr;                          // in whatever list it is

  // Bytes of payload that its reply has.
  uint32_t ReplyLength() const {
    return BringsData(kind) && status == wire::StatusCode::kOk && !hole ? length : 0;
  }
};

// First in, first out.
class JobQueue {
 public:
  bool empty() const { return head_ == nullptr; }
  Job* front() const { return head_; }
  // The others follow by Job::next_job.
  void Push(Job* job) {
    job->next_job = nullptr;
    (head_ == nullptr ? head_ : tail_->next_job) = job;
    tail_ = job;
  }
  Job* Pop() {
    Job* job = head_;
    head_ = job->next_job;
    return job;
  }

 private:
  Job* head_ = nullptr;
  Job* tail_ = nullptr;
};

// The jobs of one loop thread; those that ended are used again. Not thread-safe.
class JobPool {
 public:
  Job* Get() {
    if (free_.empty()) return new Job;
    Job* job = free_.back().release();
    free_.pop_back();
    std::destroy_at(job);
    return std::construct_at(job);
  }
  void Put(Job* job) { free_.emplace_back(job); }
  void Trim() {
    if (free_.size() > kMaxKept) free_.resize(kMaxKept);
  }

 private:
  static constexpr size_t kMaxKept = 4096;

  std::vector<std::unique_ptr<Job>> free_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_JOB_H_
