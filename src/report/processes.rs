//! The processes of a supervisor, as a table.

use std::{io, time::Duration};

use comfy_table::{Cell, Color};

use super::table;
use crate::model::units::Bytes;

/// A process, or a place for one.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number among all.
    pub id: u32,
    /// Its app.
    pub app: String,
    /// The namespace of the app.
    pub namespace: String,
    /// How it comes by its sockets.
    pub mode: &'static str,
    /// Its state.
    pub state: &'static str,
    /// Whether that is as it should be.
    pub is_well: bool,
    /// Its pid.
    pub pid: Option<u32>,
    /// Since it was started.
    pub uptime: Option<Duration>,
    /// Restarts so far.
    pub restarts: u32,
    /// CPU time since the last look, percent of one CPU.
    pub cpu_percent: Option<u32>,
    /// Resident memory of its tree.
    pub memory: Option<Bytes>,
    /// How the last one ended.
    pub last_end: Option<String>,
}

const HEADER: [&str; 10] =
    ["id", "app", "mode", "pid", "state", "up", "restarts", "cpu", "memory", "last end"];
/// The column of the state.
const STATE: usize = 4;

/// Writes a table for a terminal.
///
/// # Errors
/// When the stream cannot be written to.
pub fn table(rows: &[Row], out: &mut dyn io::Write, colour: bool) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no apps");
    }
    let mut table = table::table(HEADER.map(str::to_owned).into(), colour);
    for row in rows {
        let mut cells: Vec<Cell> = cells(row).into_iter().map(Cell::new).collect();
        let painted = if row.is_well { Color::Green } else { Color::Red };
        cells[STATE] = Cell::new(row.state).fg(painted);
        table.add_row(cells);
    }
    writeln!(out, "{table}")
}

/// Writes a Markdown table.
///
/// # Errors
/// When the stream cannot be written to.
pub fn markdown(rows: &[Row], out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "| {} |", HEADER.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(HEADER.len()))?;
    rows.iter().try_for_each(|row| {
        writeln!(out, "| {} |", cells(row).map(|cell| cell.replace('|', "\\|")).join(" | "))
    })
}

fn cells(row: &Row) -> [String; HEADER.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let app =
        if row.namespace == "default" { row.app.clone() } else { format!("{}/{}", row.namespace, row.app) };
    [
        row.id.to_string(),
        app,
        row.mode.to_owned(),
        or_dash(row.pid.map(|pid| pid.to_string())),
        row.state.to_owned(),
        or_dash(row.uptime.map(age)),
        row.restarts.to_string(),
        or_dash(row.cpu_percent.map(|percent| format!("{percent}%"))),
        or_dash(row.memory.map(|memory| memory.to_string())),
        or_dash(row.last_end.clone()),
    ]
}

/// A time in its largest unit, as lists of processes have it.
fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let up = Row {
            id: 0,
            app: "web".to_owned(),
            namespace: "default".to_owned(),
            mode: "cluster",
            state: "online",
            is_well: true,
            pid: Some(4711),
            uptime: Some(Duration::from_secs(3700)),
            restarts: 0,
            cpu_percent: Some(12),
            memory: Some(Bytes(61 << 20)),
            last_end: None,
        };
        let down = Row {
            id: 12,
            app: "mail|er".to_owned(),
            namespace: "tools".to_owned(),
            mode: "fork",
            state: "errored",
            is_well: false,
            pid: None,
            uptime: None,
            restarts: 16,
            cpu_percent: None,
            memory: None,
            last_end: Some("exited with status 1".to_owned()),
        };
        vec![up, down]
    }

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_a_table() {
        insta::assert_snapshot!(written(|out| table(&rows(), out, false)), @r"
        ┌────┬───────────────┬─────────┬──────┬─────────┬────┬──────────┬─────┬──────────┬──────────────────────┐
        │ id ┆ app           ┆ mode    ┆ pid  ┆ state   ┆ up ┆ restarts ┆ cpu ┆ memory   ┆ last end             │
        ╞════╪═══════════════╪═════════╪══════╪═════════╪════╪══════════╪═════╪══════════╪══════════════════════╡
        │ 0  ┆ web           ┆ cluster ┆ 4711 ┆ online  ┆ 1h ┆ 0        ┆ 12% ┆ 61.0 MiB ┆ –                    │
        │ 12 ┆ tools/mail|er ┆ fork    ┆ –    ┆ errored ┆ –  ┆ 16       ┆ –   ┆ –        ┆ exited with status 1 │
        └────┴───────────────┴─────────┴──────┴─────────┴────┴──────────┴─────┴──────────┴──────────────────────┘
        ");
    }

    #[test]
    fn as_markdown() {
        insta::assert_snapshot!(written(|out| markdown(&rows(), out)), @r"
        | id | app | mode | pid | state | up | restarts | cpu | memory | last end |
        |---|---|---|---|---|---|---|---|---|---|
        | 0 | web | cluster | 4711 | online | 1h | 0 | 12% | 61.0 MiB | – |
        | 12 | tools/mail\|er | fork | – | errored | – | 16 | – | – | exited with status 1 |
        ");
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let coloured = written(|out| table(&rows(), out, true));
        assert!(coloured.contains("\u{1b}["));
        let mut parts = coloured.split("\u{1b}[");
        let mut plain = parts.next().unwrap().to_owned();
        plain.extend(parts.map(|part| part.split_once('m').unwrap().1));
        assert_eq!(plain, written(|out| table(&rows(), out, false)));
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(written(|out| table(&[], out, true)), "no apps\n");
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        let ages = [0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(Duration::from_secs).map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }
}
