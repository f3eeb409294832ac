use super::*;

fn read(text: &str, cut: usize) -> Result<(Vec<String>, String), String> {
    read_within(usize::MAX, text, cut)
}

fn read_within(limit: usize, text: &str, cut: usize) -> Result<(Vec<String>, String), String> {
    let mut reader = ListReader::new(limit);
    let mut items = Vec::new();
    for chunk in text.as_bytes().chunks(cut) {
        let mut take = |position: usize, raw: &[u8]| {
            assert_eq!(position, items.len());
            items.push(String::from_utf8(raw.to_vec()).unwrap());
            Ok(())
        };
        reader.feed(chunk, &mut take).map_err(|e| e.to_string())?;
    }
    let end = reader.end().map_err(|e| e.to_string())?;
    Ok((items, end.resource_version))
}

const LIST: &str = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"12","items":"no"},
    "items":[{"a":"}]\"{","b":[{"items":[1]}]} , {"x\\":"\\"},
    {}],"extra":{"items":[{"not":"one"}]}}"#;

#[test]
fn any_split_yields_the_same_items() {
    let expected = vec![r#"{"a":"}]\"{","b":[{"items":[1]}]}"#, r#"{"x\\":"\\"}"#, "{}"];
    for cut in 1..=LIST.len() {
        let (items, version) = read(LIST, cut).unwrap();
        assert_eq!(items, expected, "cut {cut}");
        assert_eq!(version, "12");
    }
}

#[test]
fn metadata_may_come_last_and_items_may_be_null() {
    let late = r#"{"items":[{"a":1}],"metadata":{"resourceVersion":"7"},"kind":"NodeList"}"#;
    assert_eq!(read(late, 5).unwrap(), (vec![r#"{"a":1}"#.to_owned()], "7".to_owned()));
    let null = r#"{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":null}"#;
    assert_eq!(read(null, 5).unwrap(), (vec![], "7".to_owned()));
}

#[test]
fn incomplete_lists_are_rejected() {
    for end in 1..LIST.len() {
        assert!(read(&LIST[..end], 7).is_err(), "cut off at {end}");
    }
    for text in [
        "",
        "null",
        "<html>bad gateway</html>",
        r#"{"kind":"Status","code":403}"#,
        r#"{"items":[{},null]}"#,
        r#"{"items":[1]}"#,
        r#"{"items":[{}]} trailing"#,
        r#"{"items":[{}]}}"#,
    ] {
        assert!(read(text, 3).is_err(), "{text}");
    }
}

#[test]
fn endless_text_is_not_piled_up() {
    for start in ["x", "\"", "{\"a\":\"", "{\"items\":[\""] {
        let mut reader = ListReader::new(ITEM_LIMIT);
        reader.feed(start.as_bytes(), &mut |_, _| Ok(())).unwrap();
        let chunk = vec![b'x'; 1 << 16];
        let failed = (0..64).any(|_| reader.feed(&chunk, &mut |_, _| Ok(())).is_err());
        assert!(failed && reader.envelope.len() <= ENVELOPE_LIMIT, "{start}");
    }
}

#[test]
fn an_item_has_a_limit_wherever_the_text_is_cut() {
    let item = r#"{"metadata":{"name":"web","namespace":"shop"},"spec":{"a":["b"]}}"#;
    let list = format!(r#"{{"kind":"ServiceList","items":[{{"a":1}}, {item} ,{item}],"metadata":{{}}}}"#);
    let refused = format!("item 1 is longer than {} bytes; it begins with {item:?}", item.len() - 1);
    for cut in 1..=list.len() {
        assert_eq!(read_within(item.len(), &list, cut).unwrap().0[1..], [item, item], "cut {cut}");
        let error = read_within(item.len() - 1, &list, cut).unwrap_err();
        // As much as has arrived is quoted.
        let [what, quoted] = [&error, &refused].map(|text| text.rsplit_once("begins with ").unwrap());
        assert_eq!(what.0, quoted.0, "cut {cut}");
        assert!(quoted.1.starts_with(what.1.trim_end_matches('"')), "cut {cut}: {error}");
    }
}

#[test]
fn an_endless_item_is_not_piled_up() {
    let mut reader = ListReader::new(1 << 20);
    reader.feed(br#"{"items":[{"metadata":{"name":"web"},"spec":""#, &mut |_, _| Ok(())).unwrap();
    let chunk = vec![b'x'; 1 << 16];
    let error = (0..64).find_map(|_| reader.feed(&chunk, &mut |_, _| Ok(())).err()).unwrap().to_string();
    assert!(
        error.starts_with(
            "item 0 is longer than 1048576 bytes; it begins with \"{\\\"metadata\\\":{\\\"name\\\":\\\"web"
        ),
        "{error}"
    );
    assert!(reader.partial.len() <= 1 << 20);
}
