// SPDX-License-Identifier: GPL-2.0-or-later
//
// cloudblk-proxy: serves volumes to cloudblk devices.
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/decimal.h"
#include "proxy/options.h"
#include "proxy/server.h"

namespace cloudblk::proxy {
namespace {

constexpr std::chrono::seconds kShutdownPatience{30};
constexpr int kUserError = 1;
constexpr int kUsageError = 2;

// What the command line says, before it is checked.
struct CommandLine {
  std::vector<std::string> listen;
  std::vector<std::string> admin;
  std::vector<std::string> volumes;
  std::string config;
  uint32_t threads = 0;
  uint32_t lease_s = 0;
  uint32_t max_connections = 0;
  std::string max_memory;
  std::string log_level;
  std::string tls_dir;
  bool insecure = false;
  std::optional<std::string> state_dir;
};

int Fail(const std::string& message, int code) {
  fmt::print(stderr, "cloudblk-proxy: {}\n", message);
  return code;
}

void Describe(CLI::App* app, CommandLine* line) {
  app->add_option("--listen", line->listen, "Address to serve at (repeatable)")
      ->type_name("tcp://HOST:PORT|unix:///PATH|tls://HOST:PORT");
  app->add_option("--admin", line->admin,
                  "Address whose clients have every right, whatever the rules (repeatable)")
      ->type_name("unix:///PATH");
  app->add_option("--volume", line->volumes, "Volume to serve (repeatable)")
      ->type_name("NAME=BACKEND-URI");
  app->add_option("--threads", line->threads, "Loops, each with a thread (default 1)")
      ->transform(CLI::Validator(MakeDecimal, ""))
      ->check(CLI::Range(1u, kMaxThreads));
  app->add_option("--config", line->config, "Settings from a TOML file; the command line wins")
      ->type_name("FILE");
  app->add_option("--lease", line->lease_s,
                  "Seconds for which a volume stays with a client that lost its connection "
                  "(default 10)")
      ->transform(CLI::Validator(MakeDecimal, ""))
      ->check(CLI::Range(1u, kMaxLeaseS));
  app->add_option("--max-connections", line->max_connections,
                  fmt::format("Connections that have a volume open, at most (default {})",
                              kDefaultMaxConnections))
      ->transform(CLI::Validator(MakeDecimal, ""))
      ->check(CLI::Range(1u, kMostConnections));
  app->add_option("--max-memory", line->max_memory,
                  fmt::format("Memory for the data of requests under way (default {}M)",
                              kDefaultMaxMemory >> 20))
      ->type_name("SIZE");
  app->add_option("--log-level", line->log_level, "How much is logged (default info)")
      ->check(CLI::IsMember(kLogLevels));
  app->add_option("--state-dir", line->state_dir,
                  "Where is kept who holds a block device or another server's volume (default "
                  "/var/lib/cloudblk)")
      ->type_name("DIR");
  app->add_option("--tls-dir", line->tls_dir,
                  "Credentials of addresses with TLS: ca-cert.pem, server-cert.pem and "
                  "server-key.pem, or keys.psk")
      ->type_name("DIR");
  app->add_flag("--insecure", line->insecure,
                "Serve other hosts in clear text, where everybody on the network can read and "
                "change what passes");
  app->set_version_flag("--version", std::string("cloudblk-proxy " CLOUDBLK_VERSION));
  app->footer(
      "Backend URIs:\n"
      "  memory:?size=SIZE            lives and dies with this process\n"
      "  file:///PATH[?OPTION[&...]]  regular file or block device; options: size=SIZE\n"
      "                               create=on aio=libaio|io_uring direct=on|off\n"
      "                               read-only=on logical-block-size=BYTES\n"
      "  rbd:///POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][?OPTION[&...]]\n"
      "                               image of a Ceph cluster; options: conf=FILE id=NAME\n"
      "                               read-only=on luks=guest logical-block-size=BYTES\n"
      "  cloudblk://HOST[:PORT]/VOLUME, cloudblk+unix:///VOLUME?socket=/PATH\n"
      "                               volume of another proxy; read-only=on payload-crc=on\n"
      "  nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=/PATH\n"
      "                               export of an NBD server; read-only=on noflush=accept\n"
      "                               unflushed=lost quarantine=SECONDS failover=unfenced\n"
      "SIZE is in bytes or with K, M, G, T.");
}

Result<Options> Collect(const CommandLine& line) {
  Options options;
  if (!line.config.empty()) {
    const Status status = ReadConfig(line.config, &options);
    if (!status.ok()) return status;
  }
  for (const std::string& text : line.listen) {
    const Result<Endpoint> endpoint = ParseEndpoint(text);
    if (!endpoint.ok()) return endpoint.status();
    options.listen.push_back(endpoint.value());
  }
  for (const std::string& text : line.admin) {
    const Result<Endpoint> endpoint = ParseAdmin(text);
    if (!endpoint.ok()) return endpoint.status();
    options.admin.push_back(endpoint.value());
  }
  for (const std::string& text : line.volumes) {
    const Result<VolumeOptions> volume = ParseVolume(text);
    if (!volume.ok()) return volume.status();
    options.volumes.push_back(volume.value());
  }
  if (line.threads != 0) options.threads = line.threads;
  if (line.lease_s != 0) options.lease_s = line.lease_s;
  if (line.max_connections != 0) options.max_connections = line.max_connections;
  if (!line.max_memory.empty()) {
    Result<uint64_t> size = ParseMaxMemory(line.max_memory);
    if (!size.ok()) return size.status();
    options.max_memory = *size;
  }
  if (!line.log_level.empty()) options.log_level = line.log_level;
  if (line.state_dir) options.state_dir = *line.state_dir;
  if (!line.tls_dir.empty()) options.tls.dir = line.tls_dir;
  options.insecure = options.insecure || line.insecure;
  const Status status = CheckOptions(options);
  if (!status.ok()) return status;
  return options;
}

// Each client is a descriptor, and the usual soft limit of 1024 is there for programs that use
// select().
void AllowManyDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Makes the server and starts its loops.
Status Start(const Options& options, std::unique_ptr<Server>* server) {
  try {
    Status made = Server::Create(options, server);
    if (!made.ok()) return made;
    (*server)->Start();
    return Status::Ok();
  } catch (const std::system_error& error) {
    return CannotStartThread(error);
  }
}

// What can change while it runs: the rules of who may do what, and what TLS proves itself by. The
// session of nobody ends for that who still has his rights.
void Reload(const CommandLine& line, Server* server) {
  Result<Options> options = Collect(line);
  Status status = options.ok() ? server->SetTls(*options) : options.status();
  if (!status.ok()) {
    spdlog::error("nothing is reloaded: {}", status.message());
    return;
  }
  const size_t count = options->access.size();
  server->SetAccess(std::move(options->access));
  spdlog::info("reloaded {}: {} rules of access",
               line.config.empty() ? "TLS credentials" : line.config, count);
}

int Serve(const CommandLine& line, const Options& options) {
  AllowManyDescriptors();
  // Every thread inherits this: signals are taken here only.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Where it ends the process, not if it is ignored, as by nohup: sigwait would return it
  // nevertheless.
  struct sigaction hangup{};
  sigaction(SIGHUP, nullptr, &hangup);
  const bool reloads = !line.config.empty() || !line.tls_dir.empty();
  if (hangup.sa_handler != SIG_IGN || reloads) sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  // A file size limit is an error of the request, not the end of the process.
  signal(SIGXFSZ, SIG_IGN);

  std::unique_ptr<Server> server;
  const Status started = Start(options, &server);
  if (!started.ok()) {
    Fail(started.message(), kUserError);
    // Some of its threads may run, and the destructor does not stop them.
    _exit(kUserError);
  }
  for (const std::string& address : server->Addresses()) {
    fmt::print("listening on {}\n", address);
  }
  if (fflush(stdout) != 0) {
    spdlog::warn("nobody is told of the addresses: cannot write to the standard output: {}",
                 strerror(errno));
  }

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  while (signal_number == SIGHUP && reloads) {
    Reload(line, server.get());
    sigwait(&signals, &signal_number);
  }
  spdlog::info("stopping on signal {}", signal_number);
  if (!server->Shutdown(kShutdownPatience)) {
    spdlog::error("the storage did not answer within {} s; ending without its answers",
                  kShutdownPatience.count());
    _exit(kUserError);
  }
  if (server->opening()) _exit(0);
  return 0;
}

// Where standard input, output or error is closed, /dev/null takes its descriptor: else the first
// volume would get it, and the log would be written into that volume.
void OccupyStandardDescriptors() {
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);
  if (fd >= 0) close(fd);
}

int Main(int argc, char** argv) {
  OccupyStandardDescriptors();
  CommandLine line;
  CLI::App app("Serves volumes to cloudblk devices.");
  Describe(&app, &line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    app.exit(success);
    return std::cout.flush() ? 0 : Fail("cannot write to the standard output", kUserError);
  } catch (const CLI::ParseError& error) {
    return Fail(fmt::format("{}; see --help", error.what()), kUsageError);
  }
  const Result<Options> options = Collect(line);
  if (!options.ok()) return Fail(options.status().message(), kUserError);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("cloudblk-proxy"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(options.value().log_level));
  return Serve(line, options.value());
}

}  // namespace
}  // namespace cloudblk::proxy

int main(int argc, char** argv) { return cloudblk::proxy::Main(argc, argv); }
