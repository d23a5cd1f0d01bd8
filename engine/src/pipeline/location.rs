//! Paths and URIs of the file, made whole: local paths start at the pipeline file's folder. No file is touched.

use std::path::{Component, Path, PathBuf};

use super::problem::quoted;
use super::secret::has_credentials;

/// A path or URI made whole, or what is wrong with it and what to do.
pub(super) fn resolve(text: &str, folder: &Path) -> Result<String, (String, String)> {
    const EXPECTED: &str = "expected a local path, `file://` or `s3://`";
    if has_credentials(text) {
        let help = "keys of an object store come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)";
        return Err((format!("{EXPECTED}, found one with a login in it"), help.to_string()));
    }
    let wrong = |help: &str| Err((format!("{EXPECTED}, found {}", quoted(text)), help.to_string()));
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme {
            "file" if rest.starts_with('/') => Ok(text.to_string()),
            "file" => wrong("`file://` is followed by a whole path: file:///folder/file"),
            "s3" if rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()) => Ok(text.to_string()),
            "s3" => wrong("`s3://` is followed by a bucket: s3://bucket/path"),
            _ => wrong("other stores are not supported"),
        };
    }
    if let Some((scheme, _)) = text.split_once(":/") {
        return match scheme {
            "models" => wrong("a version of a registry is a model's `uri`; data and checkpoints have a place"),
            "s3" | "file" => wrong("write two slashes after the colon"),
            _ => wrong("other stores are not supported"),
        };
    }
    if text.starts_with('~') {
        return wrong("`~` is not expanded: write ${HOME}");
    }
    Ok(local(text, folder).to_string_lossy().into_owned())
}

/// The address of a registry's server; `None` when the text is no `http://` or `https://`.
pub(super) fn server(text: &str) -> Option<Result<String, (String, String)>> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    if has_credentials(text) {
        let help = "an MLflow server's login comes from the environment (MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and \
                    MLFLOW_TRACKING_PASSWORD)";
        return Some(Err((
            "expected the address of a server, found one with a login in it".to_owned(),
            help.to_owned(),
        )));
    }
    if rest.is_empty() || rest.starts_with(['/', '?', '#']) {
        let message = format!("expected the address of a server, found {}", quoted(text));
        return Some(Err((message, "write http://host:port".to_owned())));
    }
    Some(Ok(text.trim_end_matches('/').to_owned()))
}

/// A local path from `folder` on, without `.` and `..` where they can be taken out.
pub(super) fn local(text: &str, folder: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    for component in folder.join(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(path.components().next_back(), Some(Component::Normal(_))) => {
                path.pop();
            }
            Component::ParentDir | Component::Normal(_) | Component::RootDir | Component::Prefix(_) => {
                path.push(component)
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_folder() {
        let folder = Path::new("/home/pipelines");
        assert_eq!(resolve("../.tidemill/m.txt", folder).unwrap(), "/home/.tidemill/m.txt");
        assert_eq!(resolve("/data/./x", folder).unwrap(), "/data/x");
        assert_eq!(local("../../sql/x.sql", Path::new("pipelines")), PathBuf::from("../sql/x.sql"));
    }

    #[test]
    fn what_is_resolved_once_is_left_alone_the_second_time() {
        let folder = Path::new("/home/pipelines");
        for text in ["a/b", "s3://bucket/x/", "file:///x"] {
            let once = resolve(text, folder).unwrap();
            assert_eq!(resolve(&once, folder).unwrap(), once);
        }
    }

    #[test]
    fn a_registry_may_be_a_server_without_a_login_in_its_address() {
        assert_eq!(server("http://mlflow:5000/").unwrap().unwrap(), "http://mlflow:5000");
        assert!(server("s3://bucket/models").is_none() && server("models").is_none());
        for text in ["http://", "https:///x", "http://me:hunter2@mlflow:5000"] {
            let (message, _) = server(text).unwrap().unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn other_stores_and_logins_are_refused() {
        for text in ["gs://b/x", "s3:///x", "s3:/b/x", "file://x", "models:/fraud@champion", "~/x"] {
            assert!(resolve(text, Path::new("/")).is_err(), "{text}");
        }
        let (message, _) = resolve("s3://key:hunter2@bucket/x", Path::new("/")).unwrap_err();
        assert!(!message.contains("hunter2"));
    }
}
