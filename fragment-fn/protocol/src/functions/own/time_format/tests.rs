use chrono::NaiveDateTime;

use super::*;

fn time(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").expect("a time")
}

#[test]
fn times_are_written_in_the_letters_of_mysql() {
    let at = time("2024-01-05T13:05:09.123456");
    for (form, expect) in [
        ("%Y-%m-%d %H:%i:%s", "2024-01-05 13:05:09"),
        ("%M %e, %y", "January 5, 24"),
        ("%a %b %c", "Fri Jan 1"),
        ("%W %j", "Friday 005"),
        ("%T|%r", "13:05:09|01:05:09 PM"),
        ("%k %l %I %p %f", "13 1 01 PM 123456"),
        ("%x-W%v %% q", "2024-W01 % q"),
    ] {
        let written = Form::mysql(form).expect(form).write(at, ("UTC", 0)).expect(form);
        assert_eq!(written, expect, "{form}");
    }
    for form in ["%D", "%U", "%w", "%X", "%"] {
        assert!(Form::mysql(form).is_err(), "{form}");
    }
}

#[test]
fn times_are_written_in_the_letters_of_joda() {
    let at = time("2024-01-05T00:05:09.123");
    for (form, expect) in [
        ("yyyyMMdd HH:mm", "20240105 00:05"),
        ("yy M MMM MMMM d", "24 1 Jan January 5"),
        ("EEE EEEE e", "Fri Friday 5"),
        ("h K k a", "12 0 24 AM"),
        ("SSS S SSSSSS", "123 1 123000"),
        ("xxxx-'W'ww", "2024-W01"),
        ("'o''clock' ''D''", "o'clock '5'"),
        ("Z ZZ ZZZ", "+0130 +01:30 Zone/Name"),
    ] {
        let written = Form::joda(form).expect(form).write(at, ("Zone/Name", 5400)).expect(form);
        assert_eq!(written, expect, "{form}");
    }
    let name = |zone: &str| Form::joda("HH z").expect("a form").write(at, (zone, 0));
    assert_eq!(name("UTC").expect("a name"), "00 UTC");
    assert_eq!(name("+00:00").expect("a name"), "00 +00:00");
    assert!(name("Europe/Berlin").expect_err("CET or CEST").to_string().contains("has no name of Europe/Berlin"));
    assert!(Form::joda_to_read("dd/MM/yy").is_err(), "which century");
    assert!(Form::joda_to_read("dd/MM/yyyy").is_ok());
    for form in ["yyyy-MM-dd'T", "yyyyb", "Q"] {
        assert!(Form::joda(form).is_err(), "{form}");
    }
}

#[test]
fn texts_are_read() {
    let mysql = |form: &str, text: &str| Form::mysql(form).expect(form).read(text).ok().map(|(time, _)| time);
    for (form, text, expect) in [
        ("%d/%m/%Y %H:%i", "31/01/2024 13:05", "2024-01-31T13:05:00"),
        ("%Y%m%d", "20240131", "2024-01-31T00:00:00"),
        ("%Y-%c-%e", "2024-1-5", "2024-01-05T00:00:00"),
        ("%Y-%m-%d %h:%i %p", "2024-01-05 12:30 am", "2024-01-05T00:30:00"),
        ("%Y-%m-%d %h:%i %p", "2024-01-05 12:30 PM", "2024-01-05T12:30:00"),
        ("%d %b %Y", "5 feb 2024", "2024-02-05T00:00:00"),
        ("%d %M %y", "05 february 69", "2069-02-05T00:00:00"),
        ("%y", "70", "1970-01-01T00:00:00"),
        ("%W, %d %b %Y", "Friday, 05 January 2024", "2024-01-05T00:00:00"),
        ("%H:%i:%s.%f", "13:05:09.5", "1970-01-01T13:05:09.5"),
        ("%m-%d", "02-29", "2000-02-29T00:00:00"),
        ("%j", "060", "2000-02-29T00:00:00"),
        ("%j", "366", "2000-12-31T00:00:00"),
        ("%d %M %Y", "05 Feb 2024", "2024-02-05T00:00:00"),
        ("%W, %d %b %Y", "Fri, 05 January 2024", "2024-01-05T00:00:00"),
        ("%Y %j", "2024 366", "2024-12-31T00:00:00"),
        ("%x-W%v", "2020-W53", "2020-12-28T00:00:00"),
    ] {
        assert_eq!(mysql(form, text), Some(time(expect)), "{form} {text}");
    }
    for (form, text) in [
        ("%Y", "x"),
        ("%Y", "2024 "),
        ("%Y-%m-%d", "2024-13-01"),
        ("%Y-%m-%d", "2023-02-29"),
        ("%H", "24"),
        ("%h", "13"),
        ("%W %Y-%m-%d", "Monday 2024-01-05"),
        ("%Y-%m-%d %H", "2024-01-31"),
        ("%b", "Foo"),
    ] {
        assert_eq!(mysql(form, text), None, "{form} {text}");
    }
    let joda = |form: &str, text: &str| {
        let (time, zone) = Form::joda(form).expect(form).read(text).ok()?;
        zone.map_or(Some(time), |zone| to_utc(time, zone))
    };
    for (form, text, expect) in [
        ("yyyy-MM-dd HH", "2024-01-31 13", "2024-01-31T13:00:00"),
        ("yyyyMMddHHmmss", "20240131130509", "2024-01-31T13:05:09"),
        ("yyyy-MM-dd Z", "2024-01-31 +02:00", "2024-01-30T22:00:00"),
        ("yyyy-MM-dd z", "2024-07-31 Europe/Berlin", "2024-07-30T22:00:00"),
        ("dd/MMM/yyyy:HH:mm:ss Z", "31/Jan/2024:13:05:09 -0530", "2024-01-31T18:35:09"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'", "2024-01-31T13:05:09.123Z", "2024-01-31T13:05:09.123"),
    ] {
        assert_eq!(joda(form, text), Some(time(expect)), "{form} {text}");
    }
    assert_eq!(joda("yyyy-MM-dd HH:mm z", "2024-03-31 02:30 Europe/Berlin"), None, "clocks skip it");
}
