//! What came out.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::driver::Push;
use crate::world::{SESSIONS, World, lock};

/// Whether all that must be is.
#[derive(Default)]
pub struct Verdict {
    /// How asks ended.
    ends: BTreeMap<String, u64>,
    late: u64,
    /// Why asks have no answer though one was given, and not taken.
    pub refused: Vec<String>,
    /// What was pushed again because its first process was killed before it could say that it had pushed it.
    repeated: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
}

impl Verdict {
    pub fn of(world: &World) -> Self {
        let mut verdict = Verdict::default();
        let taken = lock(&world.taken);
        let got: Vec<Vec<Push>> = world
            .sessions
            .iter()
            .enumerate()
            .map(|(who, s)| verdict.once(world, who, &s.model().got))
            .collect();
        let mut by_id: Vec<HashMap<&str, Vec<&Push>>> = Vec::new();
        for pushes in &got {
            let mut ids: HashMap<&str, Vec<&Push>> = HashMap::new();
            let ends = |p: &&Push| matches!(p.kind.as_str(), "reply" | "failed" | "summary");
            pushes.iter().filter(ends).for_each(|p| ids.entry(&p.id).or_default().push(p));
            by_id.push(ids);
        }
        let at = |who: usize, id: &str| by_id[who].get(id).map_or(&[][..], |pushes| pushes);
        for (id, who) in &taken.asks {
            verdict.one_end(id, at(*who, id), taken.prompt.contains(id));
        }
        for (id, (who, asks)) in &taken.broadcasts {
            let asks: Vec<&[&Push]> = asks.iter().map(|ask| at(*who, ask)).collect();
            verdict.one_summary(id, at(*who, id), &asks, taken.prompt.contains(id));
        }
        let members = taken.broadcasts.values().flat_map(|(who, asks)| asks.iter().map(|ask| (ask, *who)));
        let askers: HashMap<&String, usize> =
            taken.asks.iter().map(|(id, who)| (id, *who)).chain(members).collect();
        for (id, text) in &taken.answers {
            let Some(who) = askers.get(id) else { continue }; // the asker was never told that it had asked
            let replies =
                at(*who, id).iter().filter(|p| p.kind == "reply" && p.content.contains(text.as_str()));
            if replies.count() != 1 {
                verdict.wrong.push(format!("c{who} was answered by {text:?} and got {:?}", at(*who, id)));
            }
        }
        for (id, code) in taken.refused.iter().filter(|(id, _)| taken.asks.contains_key(*id)) {
            if at(taken.asks[id], id).iter().all(|p| p.kind != "reply") {
                verdict.refused.push(format!("{code} {id}"));
            }
        }
        for (who, ids) in by_id.iter().enumerate() {
            for id in
                ids.keys().filter(|id| askers.get(&(**id).to_owned()).is_some_and(|asker| *asker != who))
            {
                verdict.wrong.push(format!("c{who} got what belongs to another: {id}"));
            }
        }
        verdict
    }

    /// Takes out what came twice for the one excusable reason: that it was the last thing its process did.
    fn once(&mut self, world: &World, who: usize, got: &[(u64, Push)]) -> Vec<Push> {
        let mut seen: HashMap<(&str, &str, bool), usize> = HashMap::new();
        let mut once = Vec::new();
        for (at, (life, push)) in got.iter().enumerate() {
            let late = push.meta("late") == "true";
            match seen.insert((&push.kind, &push.id, late), at) {
                None => once.push(push.clone()),
                Some(first) => {
                    let first_life = got[first].0;
                    let last_of_life = got[first..].iter().take_while(|(l, _)| *l == first_life).count();
                    *self.repeated.entry(push.kind.clone()).or_default() += 1;
                    if first_life == *life || last_of_life > world.pace.repeats {
                        self.wrong.push(format!(
                            "c{who} got {} {} again, in life {first_life} ({last_of_life} before its end) and {life}",
                            push.kind, push.id
                        ));
                    }
                }
            }
        }
        once
    }

    fn one_end(&mut self, id: &str, pushes: &[&Push], prompt: bool) {
        let (late, ends): (Vec<&&Push>, Vec<&&Push>) = pushes.iter().partition(|p| p.meta("late") == "true");
        self.late += late.len() as u64;
        match ends[..] {
            [end] => {
                let how = if end.kind == "reply" { "reply" } else { end.meta("code") };
                *self.ends.entry(how.to_owned()).or_default() += 1;
                if prompt && how == "timeout" {
                    self.wrong.push(format!("{id} was to be answered at once and timed out: {pushes:?}"));
                }
                if !late.is_empty() && how != "timeout" {
                    self.wrong.push(format!("{id} ended in {how} and was answered late: {pushes:?}"));
                }
            }
            _ => self.wrong.push(format!("{id} has {} ends: {pushes:?}", ends.len())),
        }
    }

    fn one_summary(&mut self, id: &str, summaries: &[&Push], asks: &[&[&Push]], prompt: bool) {
        let [summary] = summaries[..] else {
            return self
                .wrong
                .push(format!("broadcast {id} has {} summaries: {summaries:?}", summaries.len()));
        };
        if prompt && summary.content.contains("(timeout)") {
            self.wrong.push(format!("broadcast {id} was to be answered at once: {}", summary.content));
        }
        let in_time =
            |pushes: &&&[&Push]| pushes.iter().any(|p| p.kind == "reply" && p.meta("late") != "true");
        let answered = asks.iter().filter(in_time).count();
        let expected = format!("{answered} of {} answered", asks.len());
        if !summary.content.contains(&expected) {
            self.wrong.push(format!(
                "broadcast {id}: {expected}, says the session, and the summary: {}",
                summary.content
            ));
        }
        if asks.iter().any(|pushes| pushes.iter().any(|p| p.kind != "reply")) {
            self.wrong.push(format!("broadcast {id}: a failure came by itself: {asks:?}"));
        }
    }
}

pub fn report(world: &World, verdict: &Verdict, ran: Duration) -> String {
    let taken = lock(&world.taken);
    let mut text = format!("\nchaos: {} channels for {} s\n", SESSIONS, ran.as_secs());
    let hubs = world.dir.logged("hub_started").len();
    let kills = (world.hub_kills.load(Ordering::Relaxed), world.channel_kills.load(Ordering::Relaxed));
    let mut line = |what: &str, value: String| {
        writeln!(text, "  {what:24}{value}").expect("a String takes what is written")
    };
    line("hubs killed", format!("{} ({hubs} started)", kills.0));
    line("channels killed", kills.1.to_string());
    let prompt = taken.asks.keys().filter(|id| taken.prompt.contains(*id)).count();
    line("asks taken", format!("{} ({prompt} to be answered at once)", taken.asks.len()));
    line("  ended in", format!("{:?}", verdict.ends));
    let members: usize = taken.broadcasts.values().map(|(_, asks)| asks.len()).sum();
    line("broadcasts taken", format!("{} with {members} asks", taken.broadcasts.len()));
    let handed =
        format!("{} ({} handed over at once, {} late)", taken.answers.len(), taken.handed, verdict.late);
    line("answers taken", handed);
    line("answers refused", format!("{} to asks that had none", verdict.refused.len()));
    line("pushed again after a kill", format!("{:?}", verdict.repeated));
    line("calls", format!("{:?}, the longest took {:?}", taken.calls, taken.longest));
    line("violations", verdict.wrong.len().to_string());
    text
}
