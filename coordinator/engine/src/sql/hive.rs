//! CREATE EXTERNAL TABLE as Athena and Hive write it, in words that the parser reads.
//!
//! ```text
//!  ROW FORMAT SERDE '…ParquetHiveSerDe' [WITH SERDEPROPERTIES (…)]     STORED AS PARQUET, where nothing else says so
//!  STORED AS INPUTFORMAT '…Parquet…' OUTPUTFORMAT '…'                  STORED AS PARQUET
//!  `name`                                                              name
//!  COMMENT 'text' behind the columns                                   nothing
//!  CLUSTERED BY (a) [SORTED BY (b)] INTO 8 BUCKETS                     nothing
//!  TBLPROPERTIES ('parquet.compression' = 'SNAPPY')                    nothing: rows do not depend on it
//! ```
//!
//! What rows depend on is refused by its name: text formats, which OPTIONS describe, and other properties.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace, Word};

use super::words::is_word;
use super::{Refusal, quoted};

/// Properties that no row depends on.
const HARMLESS: [&str; 10] = [
    "classification",
    "comment",
    "compressiontype",
    "created_by",
    "external",
    "parquet.compress",
    "parquet.compression",
    "transient_lastddltime",
    "typeofdata",
    "write.compression",
];

/// Beginnings of properties that rows depend on, and what to write instead.
const PROPERTIES: [(&str, &str); 7] = [
    (
        "projection.",
        "folders are listed when a query is planned: leave it out; PARTITIONED BY (day DATE) is for folders day=..., and of others \"$path\" has the parts",
    ),
    (
        "storage.location.template",
        "name the folder above the partitions in LOCATION; regexp_extract(\"$path\", '/(\\\\d+)/', 1) is a part of a file's path",
    ),
    ("skip.header.line.count", "STORED AS CSV ... OPTIONS ('format.has_header' 'true') skips one line"),
    ("has_encrypted_data", "files that their writer encrypted are not read; leave it out for others"),
    ("table_type", "STORED AS ICEBERG LOCATION 's3://bucket/table/', or a catalog in gust.toml"),
    ("serialization.null.format", "OPTIONS ('format.null_value' 'NA') names the text of a NULL"),
    ("orc.", "gust reads Parquet, CSV, JSON and Iceberg"),
];

/// Rewrites one statement. `places` are those of its words.
///
/// # Errors
/// A refusal of a format or a property that is not followed.
pub(super) fn rewrite(statement: &mut [TokenWithSpan], places: &[usize]) -> Result<(), Refusal> {
    let token = |statement: &[TokenWithSpan], at: usize| places.get(at).map(|place| statement[*place].token.clone());
    let is = |statement: &[TokenWithSpan], at: usize, word: &str| {
        places.get(at).is_some_and(|place| is_word(&statement[*place].token, word))
    };
    let text = |statement: &[TokenWithSpan], at: usize| match token(statement, at) {
        // Athena's own pages have both kinds of quotes.
        Some(Token::SingleQuotedString(text) | Token::Word(Word { value: text, quote_style: Some('"'), .. })) => {
            Some(text)
        }
        _ => None,
    };
    if !(is(statement, 0, "CREATE") && is(statement, 1, "EXTERNAL") && is(statement, 2, "TABLE")) {
        return Ok(());
    }
    // The parser keeps the quotes of names in PARTITIONED BY, and a plain name needs none.
    for TokenWithSpan { token, .. } in statement.iter_mut() {
        if let Token::Word(Word { value, quote_style: Some('`'), .. }) = token {
            // Hive reads all names in small letters.
            let name = value.to_lowercase();
            let mark = (quoted(&name) != name).then_some('"');
            *token = Token::make_word(&name, mark);
        }
    }
    let has_format = (3..places.len()).any(|at| is(statement, at, "STORED") && is(statement, at + 1, "AS"));
    let (mut depth, mut at) = (0_usize, 3);
    while at < places.len() {
        let begin = at;
        match token(statement, at) {
            Some(Token::LParen) => depth += 1,
            Some(Token::RParen) => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth > 0 {
            // STRUCT<a INT> can. Hive writes a colon.
            let is_hives = |of: &str| of == "MAP" || matches!(token(statement, at + 2), Some(Token::Colon));
            if let Some(nested) = ["MAP", "STRUCT"].into_iter().find(|of| is(statement, begin, of))
                && matches!(token(statement, at), Some(Token::Lt))
                && is_hives(nested)
            {
                return Err(Refusal::new(
                    format!("a column of type {nested}<...> cannot be declared"),
                    "leave the columns out: STORED AS PARQUET LOCATION 'folder/' has those of the files, and key=value folders are columns, too",
                ));
            }
            continue;
        }
        // Words from `begin` to `at` become these, and nothing.
        let mut written: Option<&[&str]> = None;
        if is(statement, begin, "ROW") && is(statement, begin + 1, "FORMAT") {
            let Some(serde) = text(statement, begin + 3).filter(|_| is(statement, begin + 2, "SERDE")) else {
                return Err(delimited(statement, places));
            };
            parquet_only("ROW FORMAT SERDE", &serde)?;
            at = begin + 4;
            if is(statement, at, "WITH") && is(statement, at + 1, "SERDEPROPERTIES") {
                let open = at + 2;
                at = behind_brackets(statement, places, open);
                for key in (open + 1..at).filter(|at| matches!(token(statement, at + 1), Some(Token::Eq))) {
                    let (name, value) = (text(statement, key).unwrap_or_default(), text(statement, key + 2));
                    serde_property(&name, &value.unwrap_or_default())?;
                }
            }
            written = Some(if has_format { &[] } else { &["STORED", "AS", "PARQUET"] });
        } else if is(statement, begin, "STORED")
            && is(statement, begin + 1, "AS")
            && is(statement, begin + 2, "INPUTFORMAT")
        {
            parquet_only("INPUTFORMAT", &text(statement, begin + 3).unwrap_or_default())?;
            at = begin + if is(statement, begin + 4, "OUTPUTFORMAT") { 6 } else { 4 };
            written = Some(&["STORED", "AS", "PARQUET"]);
        } else if is(statement, begin, "CLUSTERED") && is(statement, begin + 1, "BY") {
            // Buckets share rows out among files, and are no columns.
            at = behind_brackets(statement, places, begin + 2);
            if is(statement, at, "SORTED") && is(statement, at + 1, "BY") {
                at = behind_brackets(statement, places, at + 2);
            }
            at += if is(statement, at, "INTO") && is(statement, at + 2, "BUCKETS") { 3 } else { 0 };
            written = Some(&[]);
        } else if is(statement, begin, "COMMENT") && text(statement, begin + 1).is_some() {
            at = begin + 2;
            written = Some(&[]);
        } else if is(statement, begin, "TBLPROPERTIES") {
            at = behind_brackets(statement, places, begin + 1);
            for key in (begin + 2..at).filter(|at| matches!(token(statement, at + 1), Some(Token::Eq))) {
                let value = text(statement, key + 2).unwrap_or_default();
                property(&text(statement, key).unwrap_or_default(), &value)?;
            }
            written = Some(&[]);
        }
        let Some(words) = written else { continue };
        for (number, place) in places.iter().take(at).skip(begin).enumerate() {
            statement[*place].token = match words.get(number) {
                Some(word) => Token::make_keyword(word),
                None => Token::Whitespace(Whitespace::Space),
            };
        }
    }
    Ok(())
}

/// Returns the position behind the brackets that open at `at`.
fn behind_brackets(statement: &[TokenWithSpan], places: &[usize], at: usize) -> usize {
    let mut depth = 0_usize;
    for (position, place) in places.iter().enumerate().skip(at) {
        match statement[*place].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return position + 1;
        }
    }
    places.len()
}

/// Refuses a class of Hive's that is not Parquet's.
fn parquet_only(what: &str, class: &str) -> Result<(), Refusal> {
    let lower = class.to_lowercase();
    if lower.contains("parquet") {
        return Ok(());
    }
    let hint = match () {
        () if lower.contains("json") => "STORED AS JSON LOCATION 'folder/' reads a JSON object a line",
        () if lower.contains("csv") || lower.contains("lazysimple") || lower.contains("textinputformat") => {
            "STORED AS CSV LOCATION 'folder/' OPTIONS ('format.has_header' 'false', 'format.delimiter' ',', 'format.quote' '\"')"
        }
        () => "gust reads Parquet, CSV, JSON and Iceberg: STORED AS PARQUET, CSV, JSON or ICEBERG",
    };
    Err(Refusal::new(format!("{what} '{class}' is not supported"), hint))
}

/// Makes the refusal of ROW FORMAT DELIMITED, with the delimiter that it names.
fn delimited(statement: &[TokenWithSpan], places: &[usize]) -> Refusal {
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&statement[*place].token, word));
    let named = (0..places.len()).find(|at| is(*at, "FIELDS") && is(at + 1, "TERMINATED") && is(at + 2, "BY"));
    let delimiter = named.and_then(|at| match &statement[*places.get(at + 3)?].token {
        Token::SingleQuotedString(text) => Some(text.replace('\'', "''")),
        _ => None,
    });
    let delimiter = delimiter.unwrap_or_else(|| ",".to_owned());
    let hint = format!(
        "STORED AS CSV LOCATION 'folder/' OPTIONS ('format.has_header' 'false', 'format.delimiter' '{delimiter}')"
    );
    Refusal::new("ROW FORMAT DELIMITED is not supported", hint)
}

/// Refuses a property of a class, such as one that reads columns by their places.
fn serde_property(key: &str, value: &str) -> Result<(), Refusal> {
    let is_off = key.eq_ignore_ascii_case("parquet.column.index.access") && value.eq_ignore_ascii_case("false");
    match is_off || key.eq_ignore_ascii_case("serialization.format") {
        true => Ok(()),
        false => Err(Refusal::new(
            format!("SERDEPROPERTIES: `{key}` is not supported"),
            "columns are those of their names; leave it out if the rows do not depend on it",
        )),
    }
}

fn property(key: &str, value: &str) -> Result<(), Refusal> {
    let lower = key.to_lowercase();
    let is_off =
        matches!(lower.as_str(), "has_encrypted_data" | "projection.enabled") && value.eq_ignore_ascii_case("false");
    if HARMLESS.contains(&lower.as_str()) || is_off {
        return Ok(());
    }
    let known = PROPERTIES.iter().find(|(begin, _)| lower.starts_with(begin));
    let hint = known.map_or("leave it out if the rows do not depend on it", |(_, hint)| hint);
    Err(Refusal::new(format!("TBLPROPERTIES: `{key}` is not supported"), hint))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::{CreateExternalTable, DFParserBuilder, Statement};

    use crate::error::QueryError;
    use crate::sql::tokens;

    fn created(text: &str) -> CreateExternalTable {
        let mut parser = DFParserBuilder::new(tokens(text).expect("words")).build().expect("a parser");
        match parser.parse_statement().unwrap_or_else(|error| panic!("{text}: {error}")) {
            Statement::CreateExternalTable(create) => create,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn parquet_is_parquet_in_every_way_to_write_it() {
        const SERDE: &str = "ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'";
        const CLASSES: &str = "STORED AS INPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat' \
            OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat'";
        const PROPERTIES: &str = "TBLPROPERTIES ('parquet.compression' = 'SNAPPY', 'classification'='parquet')";
        for clauses in [
            format!("{SERDE} LOCATION 'd/'"),
            format!("{SERDE} WITH SERDEPROPERTIES ('serialization.format' = '1') LOCATION 'd/' {PROPERTIES}"),
            format!("{SERDE} STORED AS PARQUET LOCATION 'd/'"),
            format!("COMMENT 'orders (of shops)' {SERDE} {CLASSES} LOCATION 'd/' {PROPERTIES};"),
            format!("{CLASSES} LOCATION 'd/' TBLPROPERTIES ('has_encrypted_data'='false')"),
            format!("STORED AS PARQUET LOCATION 'd/' {PROPERTIES}"),
            "STORED AS PARQUET LOCATION 'd/' TBLPROPERTIES (\"parquet.compress\"=\"SNAPPY\")".to_owned(),
            format!("CLUSTERED BY (id) SORTED BY (`s` ASC) INTO 8 BUCKETS {SERDE} LOCATION 'd/'"),
            format!("CLUSTERED BY (id) INTO 8 BUCKETS {CLASSES} LOCATION 'd/'"),
        ] {
            let created = created(&format!(
                "CREATE EXTERNAL TABLE IF NOT EXISTS `o` (`id` bigint COMMENT 'key', s string) {clauses}"
            ));
            assert_eq!(
                (created.file_type.as_str(), created.locations.clone()),
                ("PARQUET", vec!["d/".to_owned()]),
                "{clauses}"
            );
            assert_eq!(created.columns.len(), 2, "{clauses}");
        }
    }

    #[test]
    fn what_rows_depend_on_is_refused_by_its_name() {
        let structs = "CREATE EXTERNAL TABLE t (s STRUCT<x STRUCT<y INT>>) STORED AS PARQUET LOCATION 'd/'";
        assert!(tokens(structs).is_ok(), "structs as the parser reads them");
        for (clauses, message, hint) in [
            ("ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'", "ROW FORMAT SERDE 'org.openx", "STORED AS JSON"),
            (
                "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'",
                "ROW FORMAT SERDE",
                "'format.quote' '\"'",
            ),
            (
                "ROW FORMAT SERDE 'x.ParquetSerDe' WITH SERDEPROPERTIES ('parquet.column.index.access'='true') LOCATION 'd/'",
                "SERDEPROPERTIES: `parquet.column.index.access`",
                "their names",
            ),
            ("STORED AS PARQUET LOCATION 'd/' TBLPROPERTIES (\"a\"=\"b\")", "TBLPROPERTIES: `a`", "leave it out"),
            ("ROW FORMAT SERDE 'x.OrcSerde'", "ROW FORMAT SERDE 'x.OrcSerde'", "gust reads Parquet"),
            ("ROW FORMAT DELIMITED FIELDS TERMINATED BY ';'", "ROW FORMAT DELIMITED", "'format.delimiter' ';'"),
            (
                "STORED AS INPUTFORMAT 'x.TextInputFormat' OUTPUTFORMAT 'y'",
                "INPUTFORMAT 'x.TextInputFormat'",
                "STORED AS CSV",
            ),
            (
                "STORED AS PARQUET LOCATION 'd/' TBLPROPERTIES ('projection.enabled'='true')",
                "`projection.enabled`",
                "are listed",
            ),
            (
                "STORED AS CSV LOCATION 'd/' TBLPROPERTIES ('a'='b')",
                "TBLPROPERTIES: `a` is not supported",
                "leave it out",
            ),
            ("STORED AS CSV LOCATION 'd/' TBLPROPERTIES ('skip.header.line.count'='1')", "`skip.header", "has_header"),
            (
                ", m map<string,int>) STORED AS PARQUET LOCATION 'd/'",
                "type MAP<...> cannot be declared",
                "leave the columns",
            ),
            (
                ", r array<struct<a:int>>) STORED AS PARQUET LOCATION 'd/'",
                "type STRUCT<...> cannot be declared",
                "those of the files",
            ),
        ] {
            let clauses = if clauses.starts_with(',') { clauses.to_owned() } else { format!(") {clauses}") };
            let told = QueryError::from_engine(
                tokens(&format!("CREATE EXTERNAL TABLE t (a int{clauses}")).expect_err(&clauses),
            );
            assert!(told.message().contains(message), "{clauses}: {told:?}");
            assert!(told.hint().is_some_and(|given| given.contains(hint)), "{clauses}: {told:?}");
        }
    }
}
