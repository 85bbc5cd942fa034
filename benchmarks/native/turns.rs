// The loop of turns.py in Rust: what a native core could reach that keeps its state outside Python.
use std::time::Instant;

const STAGES: usize = 4;

struct Cohort { size: i64, offset_sum: i64, turn: i64, last_ns: i64, done_ns: i64, needs: Vec<i64> }

struct Engine {
    cohorts: Vec<Cohort>, stage_free: Vec<i64>, link_free: Vec<i64>, dense: Vec<Vec<i64>>, hop: Vec<i64>,
    free: i64, cells: Vec<i64>, gaps: Vec<i64>,
}

impl Engine {
    fn new() -> Engine {
        let cohort = |i: i64| Cohort {
            size: 32, offset_sum: 32 * (900 + 10 * i), turn: 0, last_ns: 0, done_ns: 0, needs: vec![2; 16],
        };
        Engine {
            cohorts: (0..STAGES as i64).map(cohort).collect(),
            stage_free: vec![0; STAGES],
            link_free: vec![0; STAGES - 1],
            dense: (0..STAGES as i64).map(|s| (0..512).map(|n| 250_000 + 1_000 * s + 900 * n).collect()).collect(),
            hop: (0..512).map(|n| 20_000 + 500 * n).collect(),
            free: 10_000_000, cells: Vec::new(), gaps: Vec::new(),
        }
    }

    fn run(&mut self, turns: usize) -> i64 {
        let mut now = 0;
        for number in 0..turns {
            let cohort = &mut self.cohorts[number % STAGES];
            let at = cohort.done_ns.max(now);
            self.gaps.push(at - cohort.last_ns);
            self.gaps.push(cohort.size);
            cohort.last_ns = at;
            now = at;
            cohort.turn += 1;
            let size = cohort.size;
            self.free -= cohort.needs[(cohort.turn % 16) as usize];
            let context = cohort.offset_sum + size * (cohort.turn - 1);
            let attention = 2_000 + 3 * (context / size);
            self.cells.extend_from_slice(&[now, size, context, self.free]);
            let mut arrive = now;
            for stage in 0..STAGES {
                let start = self.stage_free[stage].max(arrive);
                let end = start + self.dense[stage][size as usize] + 8 * attention;
                self.stage_free[stage] = end;
                self.cells.extend_from_slice(&[arrive, start, end]);
                arrive = end;
                if stage < STAGES - 1 {
                    let depart = self.link_free[stage].max(end);
                    self.link_free[stage] = depart + 400 * size;
                    arrive = depart + self.hop[size as usize];
                }
            }
            cohort.done_ns = arrive;
            if self.cells.len() >= 65536 {
                self.cells.clear();
                self.gaps.clear();
            }
        }
        now
    }
}

fn main() {
    let turns: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut best = f64::MAX;
    let mut end = 0;
    for _ in 0..5 {
        let mut engine = Engine::new();
        let begin = Instant::now();
        end = engine.run(turns);
        best = best.min(begin.elapsed().as_secs_f64());
    }
    println!("{} {}", end, best * 1e9 / turns as f64);
}
