//! The parts of the load harness that read and reckon, tested where they stand: a benchmark has no
//! tests of its own.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only the tests of these files are run; a test fails by panicking"
)]

#[path = "../benches/load/child.rs"]
mod child;
#[path = "../benches/load/cpu.rs"]
mod cpu;
#[path = "../benches/load/generator/mod.rs"]
mod generator;
#[path = "../benches/load/table.rs"]
mod table;

/// Tests of `cpu.rs`.
mod processes_tests {
    use crate::cpu::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line =
            "42 (a) b (c)) S 7 42 42 0 -1 4194304 900 0 0 0 120 34 5 6 20 0 3 0 98765 1000 200";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 7,
                ticks: 154,
                started: 98_765
            })
        );
        assert_eq!(parse_stat("42 (cut) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_field_of_the_rollup_is_read_by_its_whole_name() {
        let text = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:   9000 kB\nPss_Anon:  10 kB\nPss:   1234 kB\n";
        assert_eq!(rollup(text, "Pss"), Some(1234 * 1024));
        assert_eq!(rollup(text, "Swap"), None);
    }

    #[test]
    fn this_process_is_in_its_own_tree() {
        let own = std::process::id();
        assert!(tree(&[own]).iter().any(|(pid, _)| *pid == own));
        assert!(resident(&[own]) > 0);
        assert!(tree(&[]).is_empty());
    }
}

/// Tests of `table.rs`.
mod tables_tests {
    use crate::table::*;

    #[test]
    fn the_median_does_not_ask_for_an_order() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        assert_eq!(minimum(&[9.0, 1.0, 5.0]), 1.0);
        assert_eq!(minimum(&[]), 0.0);
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let thousand: Vec<u64> = (1..=1000).collect();
        assert_eq!(quantile(&thousand, 0.5), 500);
        assert_eq!(quantile(&thousand, 0.99), 990);
        assert_eq!(quantile(&thousand, 0.999), 999);
        assert_eq!(quantile(&[7], 0.999), 7);
        assert_eq!(quantile(&[], 0.5), 0);
    }

    #[test]
    fn ratios_compare_medians_with_medians_and_minima_with_minima() {
        assert_eq!(
            ratios(&[3.0, 4.0, 9.0], &[2.0, 8.0, 10.0]),
            Some((0.5, 1.5))
        );
        assert_eq!(ratios(&[1.0], &[]), None);
        assert_eq!(ratios(&[], &[1.0]), None);
        assert_eq!(ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn a_table_has_as_many_cells_in_every_line() {
        let text = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            markdown(
                &text(&["case", "nginx", "larder"]),
                &[text(&["1 KiB", "1.00"])]
            ),
            "| case | nginx | larder |\n|---|---|---|\n| 1 KiB | 1.00 | – |\n"
        );
    }
}

/// Tests of `generator/wrk.rs`.
mod wrk_tests {
    use crate::generator::Outcome;
    use crate::generator::wrk::*;

    const TEXT: &str = "Running 2s test @ http://127.0.0.1:8080/b/1024
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.52ms    1.01ms  23.40ms   90.41%
    Req/Sec    43.37k     4.12k   48.91k    75.00%
  86514 requests in 2.00s, 107.60MB read
Requests/sec:  43240.69
Transfer/sec:     53.78MB
";

    #[test]
    fn the_requests_and_the_time_are_read() {
        assert_eq!(
            parse(TEXT),
            Some(Outcome {
                requests: 86_514,
                refused: 0,
                errors: 0,
                seconds: 2.0
            })
        );
    }

    #[test]
    fn what_failed_is_read_too() {
        let text = TEXT.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 86509\nRequests/sec",
        );
        let read = parse(&text).unwrap();
        assert_eq!((read.errors, read.refused), (10, 86_509));
    }

    #[test]
    fn anything_else_is_not_a_result() {
        assert_eq!(
            parse("unable to connect to 127.0.0.1:8080 Connection refused"),
            None
        );
        assert_eq!(parse(""), None);
        assert_eq!(seconds("1.10m"), Some(66.0));
        assert_eq!(seconds("250.00ms"), Some(0.25));
    }
}

/// Tests of `generator/h2load.rs`.
mod h2load_tests {
    use crate::generator::Outcome;
    use crate::generator::h2load::*;

    const TEXT: &str = "Application protocol: h2c

finished in 501.12ms, 31250.00 req/s, 33.41MB/s
requests: 15625 total, 15689 started, 15625 done, 15620 succeeded, 5 failed, 2 errored, 1 timeout
status codes: 15618 2xx, 0 3xx, 2 4xx, 3 5xx
traffic: 16.71MB (17518750) total, 358.12KB (366708) headers (space savings 88.20%), 15.26MB (16000000) data
";

    #[test]
    fn what_was_done_is_read_apart_from_what_failed() {
        assert_eq!(
            parse(TEXT),
            Some(Outcome {
                requests: 15_625,
                refused: 5,
                errors: 3,
                seconds: 0.501_12
            })
        );
    }

    #[test]
    fn anything_else_is_not_a_result() {
        assert_eq!(parse("could not connect to host"), None);
        assert_eq!(parse("finished in 1.00s, 0 req/s"), None);
    }
}

/// Tests of `generator/paced.rs`.
mod paced_tests {
    use crate::generator::Outcome;
    use crate::generator::paced::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let delays = Delays {
            p50: 41_000,
            p99: 90_000,
            p999: 1_200_000,
            requests: 20_000,
            errors: 1,
        };
        assert_eq!(parse_delays(&print_delays(&delays)), Some(delays));
        let outcome = Outcome {
            requests: 7,
            refused: 0,
            errors: 2,
            seconds: 1.5,
        };
        assert_eq!(parse_outcome(&print_outcome(&outcome)), Some(outcome));
        assert_eq!(parse_delays("1 2 3"), None);
        assert_eq!(parse_outcome("a b c d"), None);
    }
}

/// Tests of `generator/client.rs`.
mod heads_tests {
    use crate::generator::client::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 12\r\n\r\nabc";
        assert_eq!(parse_head(&text[..30]), Ok(None));
        assert_eq!(
            parse_head(text),
            Ok(Some(Head {
                status: 200,
                bytes: text.len() - 3,
                content: 12
            }))
        );
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
