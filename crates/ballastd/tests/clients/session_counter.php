<?php
// One of several workers that count in one PHP session, with the session handler of phpredis and its locks.
//
//     php session_counter.php WORKER ROUNDS ADDRESS...
//
// Takes another node for each request. The session holds the count and how far each worker came, so that a worker whose
// request failed sees, once it has the session again, whether what it wrote is there: only then the request is made
// again. Whatever the session should hold and does not is an update that was lost, and the end: exit 1.
// Ends by printing how many requests failed.

[, $worker, $rounds] = $argv;
$nodes = array_slice($argv, 3);

// Notices too: that a lock could not be had is one, and PHP would go on without.
set_error_handler(function (int $level, string $message) {
    throw new ErrorException($message, 0, $level);
});

foreach ([
    'session.save_handler' => 'redis',
    'session.use_cookies' => '0',
    'session.cache_limiter' => '',
    'session.gc_maxlifetime' => '600',
    'redis.session.locking_enabled' => '1',
    // Longer than a request takes that has its lock and whose every command is answered as late as `limits.deadline`.
    'redis.session.lock_expire' => '4',
    'redis.session.lock_wait_time' => '5000',
    'redis.session.lock_retries' => '200',
] as $name => $value) {
    ini_set($name, $value);
}

/** One request: counts, unless this round is counted already. */
function request(string $node, string $worker, int $round, bool $again): void
{
    ini_set('session.save_path', "tcp://$node?timeout=1&read_timeout=2");
    session_id('shared');
    session_start();
    $mine = $_SESSION['workers'][$worker] ?? 0;
    if ($mine !== $round - 1 && !($again && $mine === $round)) {
        fwrite(STDERR, "worker $worker acknowledged " . ($round - 1) . ", and the session at $node says $mine\n");
        exit(1);
    }
    if ($mine !== $round) {
        $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
        $_SESSION['workers'][$worker] = $round;
    }
    session_write_close();
}

$failed = 0;
for ($round = 1; $round <= $rounds; $round++) {
    for ($again = false;; $again = true) {
        $node = $nodes[($worker + $round + $failed) % count($nodes)];
        try {
            request($node, $worker, $round, $again);
            break;
        } catch (ErrorException | RedisException $error) {
            $failed++;
            fwrite(STDERR, "worker $worker, round $round at $node: {$error->getMessage()}\n");
            if (session_status() === PHP_SESSION_ACTIVE) {
                try {
                    session_abort();
                } catch (ErrorException | RedisException $error) {
                    // The lock stays until it ends by itself.
                }
            }
        }
    }
}
echo "$failed\n";
