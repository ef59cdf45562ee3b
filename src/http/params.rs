//! Parameters as clients spell them: in a query, a form or a JSON object, in any case.

use std::borrow::Cow;

use serde_json::Value;
use smallvec::SmallVec;

/// A parameter that is missing or malformed, by its documented name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadParam {
    pub name: &'static str,
    pub why: String,
}

impl BadParam {
    pub fn new(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, why: why.into() }
    }
}

/// A value as it came.
#[derive(Clone, Debug, PartialEq)]
enum Given<'a> {
    Text(Cow<'a, str>),
    /// An array or object of a JSON body.
    Structured(Value),
}

/// The parameters of one request, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Params<'a>(SmallVec<[(Cow<'a, str>, Given<'a>); 8]>);

impl<'a> Params<'a> {
    /// Reads a query, or a form, which is spelt alike.
    pub fn of_query(query: &'a str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name, Given::Text(value))).collect())
    }

    /// Reads a JSON object. Numbers and booleans are taken as their text, `null` as if it were not there.
    pub fn of_object(object: serde_json::Map<String, Value>) -> Self {
        let given = |value| match value {
            Value::Null => None,
            Value::String(text) => Some(Given::Text(text.into())),
            Value::Number(number) => Some(Given::Text(number.to_string().into())),
            Value::Bool(flag) => Some(Given::Text(flag.to_string().into())),
            structured @ (Value::Array(_) | Value::Object(_)) => Some(Given::Structured(structured)),
        };
        Self(object.into_iter().filter_map(|(name, value)| Some((name.into(), given(value)?))).collect())
    }

    /// Whether any parameter is spelt exactly like one of these.
    pub fn spells_any(&self, names: &[&str]) -> bool {
        self.0.iter().any(|(name, _)| names.contains(&name.as_ref()))
    }

    /// The value of a parameter; empty and missing are the same, as they are to every client.
    pub fn text(&self, name: &'static str) -> Result<&str, BadParam> {
        for (given_name, given) in &self.0 {
            if given_name.eq_ignore_ascii_case(name) {
                return match given {
                    Given::Text(text) => Ok(text),
                    Given::Structured(_) => Err(BadParam::new(name, "must be a string or a number")),
                };
            }
        }
        Ok("")
    }

    /// A parameter that must be there.
    pub fn required(&self, name: &'static str) -> Result<&str, BadParam> {
        match self.text(name)? {
            "" => Err(BadParam::new(name, "is missing")),
            text => Ok(text),
        }
    }

    /// A whole number.
    pub fn number<T: std::str::FromStr>(&self, name: &'static str, allowed: &str) -> Result<T, BadParam> {
        let text = self.required(name)?;
        // Nothing but digits: a sign, a fraction or an exponent is not how any client writes these.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| BadParam::new(name, format!("must be {allowed}")))
    }

    /// A truth value; false when missing.
    pub fn flag(&self, name: &'static str) -> Result<bool, BadParam> {
        match self.text(name)? {
            "" => Ok(false),
            text if text.eq_ignore_ascii_case("true") || text == "1" => Ok(true),
            text if text.eq_ignore_ascii_case("false") || text == "0" => Ok(false),
            _ => Err(BadParam::new(name, "must be true or false")),
        }
    }

    /// A list of strings: a JSON array, or the field repeated.
    pub fn list(&self, name: &'static str) -> Result<Vec<String>, BadParam> {
        let mut items = Vec::new();
        for (given_name, given) in &self.0 {
            if !given_name.eq_ignore_ascii_case(name) {
                continue;
            }
            match given {
                Given::Text(text) if text.is_empty() => {}
                Given::Text(text) => items.push(text.clone().into_owned()),
                Given::Structured(Value::Array(values)) => {
                    for value in values {
                        items.push(value.as_str().ok_or_else(|| BadParam::new(name, "must hold strings only"))?.to_owned());
                    }
                }
                Given::Structured(_) => return Err(BadParam::new(name, "must be a list of strings")),
            }
        }
        Ok(items)
    }

    /// Pairs of names and values, in every form they come in: `["K: V"]`, `{"K": "V"}`, the field repeated as `K: V`, and
    /// `name[K]=V`.
    pub fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, BadParam> {
        let mut pairs = Vec::new();
        for (given_name, given) in &self.0 {
            if let Some(key) = key_in_brackets(given_name, name) {
                let Given::Text(value) = given else { return Err(BadParam::new(name, "must hold strings only")) };
                pairs.push((key.to_owned(), value.clone().into_owned()));
            } else if given_name.eq_ignore_ascii_case(name) {
                match given {
                    Given::Text(text) if text.is_empty() => {}
                    Given::Text(text) => pairs.push(split_pair(text).ok_or_else(|| not_a_pair(name))?),
                    Given::Structured(structured) => pairs.extend(structured_pairs(structured, name)?),
                }
            }
        }
        Ok(pairs)
    }
}

fn not_a_pair(name: &'static str) -> BadParam {
    BadParam::new(name, "must be pairs like \"Name: value\"")
}

fn split_pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once(':')?;
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

fn key_in_brackets<'n>(given: &'n str, name: &str) -> Option<&'n str> {
    let (prefix, rest) = given.split_at_checked(name.len())?;
    let key = rest.strip_prefix('[')?.strip_suffix(']')?;
    prefix.eq_ignore_ascii_case(name).then_some(key)
}

fn structured_pairs(structured: &Value, name: &'static str) -> Result<Vec<(String, String)>, BadParam> {
    match structured {
        Value::Array(values) => {
            values.iter().map(|value| value.as_str().and_then(split_pair).ok_or_else(|| not_a_pair(name))).collect()
        }
        Value::Object(object) => {
            let mut pairs = Vec::new();
            for (key, value) in object {
                match value {
                    Value::String(text) => pairs.push((key.clone(), text.clone())),
                    // As Go's own header type is written.
                    Value::Array(texts) => {
                        for text in texts {
                            pairs.push((key.clone(), text.as_str().ok_or_else(|| not_a_pair(name))?.to_owned()));
                        }
                    }
                    _ => return Err(not_a_pair(name)),
                }
            }
            Ok(pairs)
        }
        _ => Err(not_a_pair(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Params<'static> {
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { panic!("not an object: {text}") };
        Params::of_object(object)
    }

    #[test]
    fn names_match_in_any_case_and_numbers_come_as_strings_too() {
        for params in [Params::of_query("PORT=7"), object(r#"{"Port": 7}"#), object(r#"{"port": "7"}"#)] {
            assert_eq!(params.number::<u16>("port", "a port"), Ok(7));
        }
        for wrong in ["port=", "port=x", "port=-1", "port=%2B7", "port=7.0", "port=65536", ""] {
            assert_eq!(Params::of_query(wrong).number::<u16>("port", "a port").map_err(|bad| bad.name), Err("port"), "{wrong}");
        }
        assert!(object(r#"{"port": [7]}"#).number::<u16>("port", "a port").is_err());
    }

    #[test]
    fn headers_come_in_every_form() {
        let expected = vec![("A".to_owned(), "1:2".to_owned()), ("B".to_owned(), "3".to_owned())];
        for params in [
            Params::of_query("headers=A:%201:2&headers=B:3"),
            Params::of_query("headers[A]=1:2&HEADERS[B]=3"),
            object(r#"{"headers": ["A: 1:2", "B: 3"]}"#),
            object(r#"{"headers": {"A": "1:2", "B": ["3"]}}"#),
        ] {
            assert_eq!(params.pairs("headers"), Ok(expected.clone()));
        }
        for wrong in [r#"{"headers": [1]}"#, r#"{"headers": ["no colon"]}"#, r#"{"headers": {"A": 1}}"#, r#"{"headers": 7}"#] {
            assert!(object(wrong).pairs("headers").is_err(), "{wrong}");
        }
        assert_eq!(object(r#"{"headers": null}"#).pairs("headers"), Ok(Vec::new()));
    }
}
